"""Start the tritonserver of the nvidia-pytriton wheel on any model repository.

    from nas_serve import Server
    with Server("model_repository") as server:
        ...  # server.grpc_url, server.http_url

For laptops and CI: loopback only, because the wheel's Triton 2.51 predates security fixes. Imports no PyTorch.
"""

from nas_ensembles.release import VERSION as __version__

from .embedded import Server
from .errors import ServerError

__all__ = ["Server", "ServerError", "__version__"]
