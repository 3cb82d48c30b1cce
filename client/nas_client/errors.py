"""What can go wrong for a client.

ClientError
├── ServerUnavailable   nothing answers, or something that is no Triton
│   ├── ServerBusy      it would answer too late, or its queue is full
│   ├── ServerNotReady  it starts, or was started again
│   │   └── ServerLost  while it computed this request
│   └── ServerTimeout   it did not answer in time
├── Unauthorized        a gateway wants a token, or another one
├── AdminKeyMissing     the API is closed to clients without the server's admin key
├── ModelUnavailable    the server has no such model, several, or one of another kind
├── SharedMemoryRefused the server does not see this machine's memory, or may not
├── ImageRefused        the server cannot use this picture or these thresholds; also a ValueError
├── RequestInvalid      the model takes no such inputs: another contract, or a mistake of this client
├── BenchError          a load could not be measured
├── TuneError           settings cannot be tried or written
└── JobError            a job cannot be begun, or was not finished
"""

from __future__ import annotations


class ClientError(Exception):
    """Base of all; the message says who, expected, got, and the next step."""


class ServerUnavailable(ClientError):
    """Nothing answers at the URL, it answers too late, or it is no Triton."""


class ServerBusy(ServerUnavailable):
    """More requests wait than it can answer in time; try again later, or send fewer at once."""


class ServerNotReady(ServerUnavailable):
    """The server is there, but what computes is not: it starts, or was started again after a failure."""


class ServerLost(ServerNotReady):
    """It was there, and ended while it computed this."""


class ServerTimeout(ServerUnavailable):
    """No answer within the deadline."""


class Unauthorized(ClientError):
    """What stands before the server wants a token, or does not know this one."""


class AdminKeyMissing(ClientError):
    """Repository index and shared memory are closed to clients without the server's admin key."""


class ModelUnavailable(ClientError):
    """The server has no such model, has several to choose from, or this one is no YOLO-NAS ensemble."""


class ImageRefused(ClientError, ValueError):
    """The server refused the picture or the thresholds; other pictures are not concerned."""


class RequestInvalid(ClientError):
    """The server has the model, but it takes no such tensors: of another name, shape or type."""


class SharedMemoryRefused(ClientError):
    """The server runs elsewhere or in a container, does not allow shared memory, or has forgotten the region."""


class SharedMemoryInUse(SharedMemoryRefused):
    """A request still reads the region; one that was just answered may, for a moment."""


class BenchError(ClientError):
    """There is no perf_analyzer that starts, or it could not measure a load."""


class TuneError(ClientError):
    """The model's configs cannot be read or written, or no server comes up with them."""


class JobError(ClientError):
    """A job over many pictures cannot be begun, or was not finished; what was done is kept."""


# Not a picture's fault: whoever asks for many stops, and goes on from there later.
OF_THE_SERVER = (ServerUnavailable, ModelUnavailable, Unauthorized)
