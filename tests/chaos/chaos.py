"""Everything at once on a real server: good and hostile clients, while its processes are killed.

    python tests/chaos/chaos.py [--seconds 3600] [--requests 100000] [--seed 0] [--model-repository model_repository]

Asked must be what was answered right and what was refused with a reason, and nothing else; afterwards the server
answers as before, and 5,000 hostile requests leave its memory as it was. `make chaos` runs it for an hour and 100,000
requests at least; the tests run a short form.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import grpc
import httpx
import numpy as np
import psutil
from nas_client import ClientError, Detections, Detector, ImageRefused, ServerUnavailable
from nas_serve import Server
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2, service_pb2_grpc

SAMPLES = Path(__file__).parents[2] / "samples"
PICTURES = [path.read_bytes() for path in sorted(SAMPLES.iterdir()) if path.suffix in (".jpg", ".png")]
FRAMES: list[NDArray[np.uint8]] = [
    cv2.resize(cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_COLOR_RGB), (320 + 40 * i, 240))  # type: ignore[misc]
    for i, picture in enumerate(PICTURES)
]
HUGE = ([1, 2**61, 8, 3], [1, 100_000, 100_000, 3], [1, -1, 8, 3], [2**62, 4])
STEADY_S = 12.0  # between accidents: five of them within seconds are a hopeless case to the supervisor
_A_CLIENT = """
import sys, numpy as np, time
from nas_client import Detector
detector = Detector(sys.argv[1], model=sys.argv[2], timeout_s=5)
detector.detect(np.zeros((480, 640, 3), np.uint8))
print("ready", flush=True)
time.sleep(60)
"""


@dataclass
class Chaos:
    """One server, and what was asked of it.

    Attributes:
        outcomes: how often what happened: `right`, `refused ...`, `accident ...`.
        wrong: what must not happen, in words.
        asked: requests.
    """

    server: Server
    model: str
    seed: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    asked: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _expected: dict[tuple[str, int], Detections] = field(default_factory=dict)

    def learn(self) -> None:
        """What the server answers while nothing is wrong."""
        with Detector(self.server.grpc_url, model=self.model) as detector:
            for kind, pictures in (("picture", PICTURES), ("frame", FRAMES)):
                for i, picture in enumerate(pictures):
                    self._expected[kind, i] = detector.detect(picture)

    def run(self, seconds: float, requests: int, workers: int = 8) -> None:
        """Until both so long and so many; accidents all the while."""
        end = time.monotonic() + seconds
        over = threading.Event()

        def work(number: int) -> None:
            chance = random.Random(self.seed * 1000 + number)
            with contextlib.ExitStack() as stack:
                detectors = [
                    stack.enter_context(Detector(url, model=self.model, retries=retries, shared_memory=shared))
                    for url in (self.server.grpc_url, f"http://{self.server.http_url}")
                    for retries in (0, 10)
                    for shared in (False, None)
                ]
                while time.monotonic() < end or self.asked < requests:
                    self._one(chance, chance.choice(detectors))

        breaker = threading.Thread(target=self._break, args=(over,))
        breaker.start()
        try:
            with ThreadPoolExecutor(workers) as pool:
                for future in [pool.submit(work, number) for number in range(workers)]:
                    future.result()
        finally:
            over.set()
            breaker.join()

    def attack(self, requests: int, workers: int = 8) -> None:
        """Hostile requests alone."""

        def work(number: int) -> None:
            chance = random.Random(self.seed * 1000 + number)
            with Detector(self.server.grpc_url, model=self.model, retries=0) as detector:
                for _ in range(requests // workers):
                    self._count(chance.choice(self._hostile), chance, detector)

        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(work, range(workers)))

    def settle(self, seconds: float = 90) -> None:
        """Wait until it answers everything as before, or say that it does not."""
        end = time.monotonic() + seconds
        while True:
            try:
                with Detector(self.server.grpc_url, model=self.model, retries=0, timeout_s=10) as detector:
                    for (kind, i), expected in self._expected.items():
                        _same(detector.detect((PICTURES if kind == "picture" else FRAMES)[i]), expected)
                return
            except (ClientError, ValueError) as error:
                if time.monotonic() > end:
                    self.wrong.append(f"afterwards: {error}")
                    return
                time.sleep(0.5)

    def memory_bytes(self) -> int:
        """Of all processes of the server, pages that they share counted once."""
        assert self.server._process is not None
        family = psutil.Process(self.server._process.pid).children(recursive=True)
        return sum(process.memory_full_info().pss for process in family)

    def _one(self, chance: random.Random, detector: Detector) -> None:
        good = (self._picture, self._picture, self._frame, self._frame, self._batch)
        self._count(chance.choice(good if chance.random() < 0.6 else self._hostile), chance, detector)

    def _count(self, ask: Callable[[random.Random, Detector], str], chance: random.Random, detector: Detector) -> None:
        try:
            outcome = ask(chance, detector)
        except (ServerUnavailable, grpc.RpcError, httpx.HTTPError) as error:
            outcome = _unavailable(error)
        except Exception as error:
            outcome = f"wrong {type(error).__name__}"
            self.wrong.append(f"{ask.__name__}: {type(error).__name__}: {error}"[:500])
        with self._lock:
            self.asked += 1
            self.outcomes[outcome] += 1

    def _picture(self, chance: random.Random, detector: Detector) -> str:
        i = chance.randrange(len(PICTURES))
        _same(detector.detect(PICTURES[i]), self._expected["picture", i])
        return "right"

    def _frame(self, chance: random.Random, detector: Detector) -> str:
        i = chance.randrange(len(FRAMES))
        _same(detector.detect(FRAMES[i]), self._expected["frame", i])
        return "right"

    def _batch(self, chance: random.Random, detector: Detector) -> str:
        chosen = [chance.randrange(len(PICTURES)) for _ in range(chance.randrange(2, 5))]
        for i, found in zip(chosen, detector.detect([PICTURES[i] for i in chosen]), strict=True):
            _same(found, self._expected["picture", i])
        return "right"

    def _broken_picture(self, chance: random.Random, detector: Detector) -> str:
        """Bytes that are no picture any more, or perhaps still one."""
        data = bytearray(chance.choice(PICTURES))
        for _ in range(chance.randrange(1, 20)):
            data[chance.randrange(min(len(data), 2000))] = chance.randrange(256)
        try:
            detector.detect(bytes(data[: chance.randrange(1, len(data))]))
        except ImageRefused:
            return "refused: no picture"
        return "right"

    def _bad_threshold(self, chance: random.Random, detector: Detector) -> str:
        try:
            detector.detect(PICTURES[0], score_threshold=chance.choice((-1.0, 2.0, float("nan"))))
        except ImageRefused:
            return "refused: threshold"
        raise ValueError("a threshold out of range was taken")

    def _huge_http(self, chance: random.Random, detector: Detector) -> str:
        tensor: dict[str, Any] = {"name": "frame", "shape": chance.choice(HUGE), "datatype": "UINT8"}
        tensor |= chance.choice(({"data": [1]}, {"parameters": {"binary_data_size": 0}}))
        header = json.dumps({"inputs": [tensor]}).encode()
        url = f"http://{self.server.http_url}/v2/models/{self.model}_frames/infer"
        answer = httpx.post(
            url, content=header, headers={"inference-header-content-length": str(len(header))}, timeout=30
        )
        return _refused(answer.status_code == 400, answer.status_code == 503, f"HTTP {answer.status_code}")

    def _huge_grpc(self, chance: random.Random, detector: Detector) -> str:
        asked = service_pb2.ModelInferRequest(model_name=f"{self.model}_frames")
        asked.inputs.add(name="frame", datatype="UINT8").shape.extend(chance.choice(HUGE))
        asked.raw_input_contents.append(b"")
        with grpc.insecure_channel(self.server.grpc_url) as channel:
            try:
                service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(asked, timeout=30)
            except grpc.RpcError as error:
                code = error.code().name
                return _refused(code == "INVALID_ARGUMENT", code == "UNAVAILABLE", code)
        raise ValueError("a huge shape was taken")

    def _noise(self, chance: random.Random, detector: Detector) -> str:
        """Bytes that are no message, for both protocols."""
        data = chance.randbytes(chance.randrange(0, 300))
        url = f"http://{self.server.http_url}/v2/models/{self.model}/infer"
        answer = httpx.post(url, content=data, headers={"inference-header-content-length": "9"}, timeout=30)
        return _refused(answer.status_code in (400, 500), answer.status_code == 503, f"HTTP {answer.status_code}")

    def _cut(self, chance: random.Random, detector: Detector) -> str:
        """A connection that is cut in the middle of what it sends."""
        host, _, port = chance.choice((self.server.http_url, self.server.grpc_url)).partition(":")
        try:
            with socket.create_connection((host, int(port)), timeout=5) as connection:
                connection.sendall(b"POST /v2/models/x/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n")
                connection.sendall(chance.randbytes(chance.randrange(1, 50_000)))
        except OSError:
            pass
        return "refused: cut"

    @property
    def _hostile(self) -> tuple[Callable[[random.Random, Detector], str], ...]:
        return (
            self._broken_picture,
            self._bad_threshold,
            self._huge_http,
            self._huge_grpc,
            self._noise,
            self._cut,
        )

    def _break(self, over: threading.Event) -> None:
        chance = random.Random(self.seed)
        accidents = (self._kill, self._kill, self._hang, self._kill_a_client, self._fill_shared_memory)
        while not over.wait(STEADY_S + 4 * chance.random()):
            accident = chance.choice(accidents)
            with contextlib.suppress(psutil.NoSuchProcess, IndexError):
                name = accident(chance)
                with self._lock:
                    self.outcomes[f"accident {name}"] += 1
            self._wait_until_it_answers(over)

    def _wait_until_it_answers(self, over: threading.Event) -> None:
        answered = 0
        while answered < 3 and not over.wait(1.0):  # it may not know yet that it is hurt
            try:
                with Detector(self.server.grpc_url, model=self.model, retries=0, timeout_s=5) as detector:
                    detector.detect(PICTURES[0])
                answered += 1
            except ClientError:
                answered = 0

    def _family(self, name: str) -> list[psutil.Process]:
        assert self.server._process is not None
        return [p for p in psutil.Process(self.server._process.pid).children(recursive=True) if name in p.name()]

    def _kill(self, chance: random.Random) -> str:
        name = chance.choice(("stub", "stub", "tritonserver", "envoy"))
        chance.choice(self._family(name)).kill()
        return f"{name} killed"

    def _hang(self, chance: random.Random) -> str:
        process = chance.choice(self._family("stub"))
        process.suspend()
        return "stub stopped"

    def _kill_a_client(self, chance: random.Random) -> str:
        """With frames in shared memory."""
        command = [sys.executable, "-c", _A_CLIENT, self.server.grpc_url, self.model]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as client:
            assert client.stdout is not None
            client.stdout.readline()
            client.send_signal(signal.SIGKILL)
        return "client killed"

    def _fill_shared_memory(self, chance: random.Random) -> str:
        """But for a megabyte, for a second; no more than 8 GB of it."""
        free = os.statvfs("/dev/shm").f_bavail * os.statvfs("/dev/shm").f_frsize - 2**20
        if not 0 < free < 8 * 2**30:
            return "none: /dev/shm is too large to fill"
        with tempfile.NamedTemporaryFile(dir="/dev/shm") as file:
            with contextlib.suppress(OSError):
                os.posix_fallocate(file.fileno(), 0, free)
            time.sleep(1)
        return "/dev/shm filled"


def _same(found: Detections, expected: Detections) -> None:
    if found.names != expected.names or not np.array_equal(found.boxes_xyxy, expected.boxes_xyxy):
        raise ValueError(f"other boxes than before: {found} instead of {expected}")


def _refused(right: bool, unavailable: bool, what: str) -> str:
    if unavailable:
        return "refused: unavailable"
    if not right:
        raise ValueError(f"{what} for a hostile request")
    return "refused: hostile"


def _unavailable(error: Exception) -> str:
    return f"refused: {type(error).__name__}"


@contextlib.contextmanager
def serving(model_repository: Path, model: str) -> Iterator[Server]:
    """A server that says what happens to it on standard error."""
    with Server(model_repository, models=[model], said=lambda line: print(line, file=sys.stderr)) as server:
        yield server


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model-repository", type=Path, default=Path("model_repository"))
    parser.add_argument("--model", default="yolo_nas_s_int8")
    given = parser.parse_args()
    with serving(given.model_repository, given.model) as server:
        chaos = Chaos(server, given.model, given.seed)
        chaos.learn()
        chaos.run(given.seconds, given.requests)
        chaos.settle()
        chaos.attack(1000)  # allocators have their fill then
        chaos.settle()
        before = chaos.memory_bytes()
        chaos.attack(5000)
        chaos.settle()
        after = chaos.memory_bytes()
    report = {
        "asked": chaos.asked,
        "outcomes": dict(sorted(chaos.outcomes.items())),
        "wrong": chaos.wrong[:20],
        "memory_mb": [round(before / 2**20), round(after / 2**20)],
    }
    print(json.dumps(report, indent=2))
    return 1 if chaos.wrong or after > 1.05 * before else 0


if __name__ == "__main__":
    sys.exit(main())
