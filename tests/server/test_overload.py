"""When there is too much to do, and when the server is told to stop: every request is answered or refused."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest
from nas_client import ClientError, Detector, ServerBusy, ServerNotReady, ServerTimeout, ServerUnavailable
from nas_serve import Server

from support.samples import SAMPLES

BIN = Path(sys.executable).parent
NAME = "yolo_nas_s_int8"
BUS = SAMPLES / "bus.jpg"


@pytest.fixture(scope="module")
def server(repository: Path) -> Iterator[Server]:
    """Of the demo model alone; what it says must stay nothing: it was never started again."""
    said: list[str] = []
    with Server(repository, models=[NAME], said=said.append) as running:
        yield running
    assert not said


def test_too_much_at_once_is_answered_in_time_or_refused_at_once(server: Server) -> None:
    """Ten times of what it can do, with a deadline: what it computes is in time, and then it is idle.

    Without refusals hardly an answer is: each waits for a hundred. This test's clients, and whatever else runs here,
    take a share of the same cores that it learns of first; how long they wait for one counts as lateness.
    """
    with Detector(server.grpc_url, model=NAME, retries=0) as detector:
        picture = BUS.read_bytes()
        assert "bus" in detector.detect(picture).names
        began = time.monotonic()
        list(detector.detect_many([picture] * 64, in_flight=16))
        capacity = 64 / (time.monotonic() - began)
    deadline, learning_s, counting_s = max(5.0, 40 / capacity), max(10.0, 50 / capacity), max(12.0, 100 / capacity)
    outcomes: Counter[str] = Counter()
    counted = time.monotonic() + learning_s
    end = counted + counting_s

    def computed() -> int:
        stats = httpx.get(f"http://{server.http_url}/v2/models/{NAME}_engine/stats", timeout=300).json()
        return int(stats["model_stats"][0]["inference_stats"]["success"]["count"])

    def hurry(_: int) -> None:
        with Detector(server.grpc_url, model=NAME, timeout_s=deadline, retries=0) as detector:
            while (asked := time.monotonic()) < end:
                try:
                    outcome = "right" if "bus" in detector.detect(picture).names else "wrong"
                except ServerBusy:
                    outcome = "refused late" if time.monotonic() - asked > deadline / 2 else "refused"
                    time.sleep(100 / (10 * capacity))
                except ServerTimeout:
                    outcome = "too late"
                outcomes[outcome] += asked > counted

    with ThreadPoolExecutor(100) as pool:
        asking = [pool.submit(hurry, i) for i in range(100)]
        time.sleep(learning_s)
        before = computed()
        for asked in asking:
            asked.result()
        done = computed() - before
    seen = (outcomes, capacity, done)
    assert not outcomes["wrong"] and outcomes["refused"] > 100, seen
    assert outcomes["right"] > 0.3 * done and done > 20, seen
    assert outcomes["too late"] < outcomes["right"], seen
    time.sleep(1)
    with Detector(server.grpc_url, model=NAME) as detector:
        detector.detect(picture)
        began = time.monotonic()
        detector.detect(picture)
        assert time.monotonic() - began < 8 / capacity + 0.2


def test_what_was_accepted_is_answered_when_it_is_told_to_stop(server: Server, repository: Path) -> None:
    command = [str(BIN / "nas-serve"), "--model-repository", str(repository), "--model", NAME]
    command += ["--http-port", "0", "--grpc-port", "0", "--metrics-port", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    assert process.stderr is not None
    while "gRPC" not in (line := process.stderr.readline()):
        assert process.poll() is None
    address = line.partition("gRPC ")[2].partition(",")[0]
    picture = BUS.read_bytes()
    with Detector(address, model=NAME, retries=0) as detector:
        expected = detector.detect(picture)
        pool = ThreadPoolExecutor(24)
        asked = [pool.submit(detector.detect, picture) for _ in range(24)]
        time.sleep(0.15)
        process.send_signal(signal.SIGTERM)
        late: list[Exception | None] = []

        def ask_later() -> None:
            time.sleep(0.1)
            for _ in range(5):
                try:
                    detector.detect(picture)
                    late.append(None)
                except ClientError as error:
                    late.append(error)

        thread = threading.Thread(target=ask_later)
        thread.start()
        for one in asked:
            np.testing.assert_array_equal(one.result(timeout=300).boxes_xyxy, expected.boxes_xyxy)
        thread.join()
        pool.shutdown()
    refused = late[late.index(next(filter(None, late))) :]  # the first may come before the signal
    assert refused and isinstance(refused[0], ServerNotReady), late
    assert all(isinstance(error, ServerUnavailable) for error in refused), late  # the last may find nobody
    with process:
        assert process.wait(300) == 0


def test_it_costs_little_memory(server: Server) -> None:
    assert server._process is not None
    (envoy,) = (p for p in psutil.Process(server._process.pid).children() if p.name() == "envoy")
    assert envoy.memory_info().rss < 500 * 2**20
