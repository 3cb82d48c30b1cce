"""Everything at once on a real server: good and hostile clients, while its processes are killed.

    python tests/chaos/chaos.py [--seconds 3600] [--requests 100000] [--seed 0] [--model-repository model_repository]

Asked must be what was answered right and what was refused with a reason, and nothing else; afterwards the server
answers as before, and 5,000 hostile requests leave its memory as it was. `make chaos` runs it for an hour and 100,000
requests at least; the tests run a short form. Hostile requests are in `hostile.py`, accidents in `accidents.py`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import grpc
import httpx
import numpy as np
import psutil
from accidents import Accidents
from hostile import PICTURES, REQUESTS, Target
from nas_client import ClientError, Detections, Detector, ServerUnavailable
from nas_serve import Server
from numpy.typing import NDArray

FRAMES: list[NDArray[np.uint8]] = [
    cv2.resize(cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_COLOR_RGB), (320 + 40 * i, 240))  # type: ignore[misc]
    for i, picture in enumerate(PICTURES)
]


@dataclass(frozen=True)
class Length:
    """Of a run: it ends when all are reached.

    Attributes:
        seconds: of it all.
        requests: good and hostile.
        accidents: at least.
        pause_s: between accidents. Six of them within seconds of each other are a hopeless case to the supervisor.
    """

    seconds: float
    requests: int
    accidents: int
    pause_s: float


@dataclass
class Chaos:
    """One server, and what was asked of it.

    Attributes:
        outcomes: how often what happened: `right`, `refused ...`, `accident ...`.
        wrong: what must not happen, in words.
        asked: requests.
        accidents: that happened.
    """

    server: Server
    model: str
    seed: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    asked: int = 0
    accidents: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _expected: dict[tuple[str, int], Detections] = field(default_factory=dict)

    def learn(self) -> None:
        """What the server answers while nothing is wrong."""
        with Detector(self.server.grpc_url, model=self.model) as detector:
            for kind, pictures in (("picture", PICTURES), ("frame", FRAMES)):
                for i, picture in enumerate(pictures):
                    self._expected[kind, i] = detector.detect(picture)

    def run(self, length: Length, workers: int = 8) -> None:
        """Good and hostile requests; accidents all the while."""
        end = time.monotonic() + length.seconds
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
                while time.monotonic() < end or self.asked < length.requests or self.accidents < length.accidents:
                    self._one(chance, chance.choice(detectors))

        breaker = threading.Thread(target=self._break, args=(over, length.pause_s))
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
                    self._hostile(chance, detector)

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
        return sum(process.memory_full_info().pss for process in Accidents(self.server, self.model).family())

    def _one(self, chance: random.Random, detector: Detector) -> None:
        good = (self._picture, self._picture, self._frame, self._frame, self._batch)
        if chance.random() < 0.6:
            ask = chance.choice(good)
            self._count(ask.__name__, lambda: ask(chance, detector))
        else:
            self._hostile(chance, detector)

    def _hostile(self, chance: random.Random, detector: Detector) -> None:
        ask = chance.choice(REQUESTS)
        self._count(ask.__name__, lambda: ask(chance, Target(self.server, self.model, detector)))

    def _count(self, name: str, ask: Callable[[], str]) -> None:
        try:
            outcome = ask()
        except (ServerUnavailable, grpc.RpcError, httpx.HTTPError) as error:
            outcome = f"refused: {type(error).__name__}"
        except Exception as error:
            outcome = f"wrong {type(error).__name__}"
            self.wrong.append(f"{name}: {type(error).__name__}: {error}"[:500])
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

    def _break(self, over: threading.Event, pause_s: float) -> None:
        chance = random.Random(self.seed)
        accidents = Accidents(self.server, self.model)
        while not over.wait(pause_s * (1 + chance.random() / 3)):
            with contextlib.suppress(psutil.NoSuchProcess, IndexError):
                name = accidents.one(chance)
                with self._lock:
                    self.outcomes[f"accident {name}"] += 1
                    self.accidents += 1
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


def _same(found: Detections, expected: Detections) -> None:
    if found.names != expected.names or not np.array_equal(found.boxes_xyxy, expected.boxes_xyxy):
        raise ValueError(f"other boxes than before: {found} instead of {expected}")


@contextlib.contextmanager
def serving(model_repository: Path, model: str) -> Iterator[Server]:
    """A server that says what happens to it on standard error."""
    with Server(model_repository, models=[model], said=lambda line: print(line, file=sys.stderr)) as server:
        yield server


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--accidents", type=int, default=2, help="at least")
    parser.add_argument("--pause", type=float, default=12, help="seconds between accidents, a third more by chance")
    parser.add_argument("--attacks", type=int, default=5000, help="hostile requests at the end, to measure memory")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model-repository", type=Path, default=Path("model_repository"))
    parser.add_argument("--model", default="yolo_nas_s_int8")
    given = parser.parse_args()
    with serving(given.model_repository, given.model) as server:
        chaos = Chaos(server, given.model, given.seed)
        chaos.learn()
        chaos.run(Length(given.seconds, given.requests, given.accidents, given.pause))
        chaos.settle()
        chaos.attack(1000)  # allocators have their fill then
        chaos.settle()
        before = chaos.memory_bytes()
        chaos.attack(given.attacks)
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
