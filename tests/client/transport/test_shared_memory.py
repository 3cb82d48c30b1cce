"""Frames in shared memory: the same boxes, regions used again, nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from nas_client import Detected, Detector
from nas_client.errors import SharedMemoryRefused
from nas_serve import Server
from numpy.typing import NDArray

from support.samples import PICTURES, SAMPLES

INT8 = "yolo_nas_s_int8"
FRAMES = [cv2.imread(str(path), cv2.IMREAD_COLOR_RGB) for path in PICTURES]


def regions() -> set[str]:
    return {path.name for path in Path("/dev/shm").glob("nas_client_*")}


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    before = regions()
    yield
    assert regions() == before


@pytest.fixture(params=["grpc", "http"])
def detector(request: pytest.FixtureRequest, server: Server) -> Iterator[Detector]:
    url = server.grpc_url if request.param == "grpc" else server.http_url
    with Detector(url, INT8, protocol=request.param) as made:
        yield made


def test_frames_give_what_pictures_give(detector: Detector) -> None:
    for path, frame in zip(PICTURES, FRAMES, strict=True):
        shared, sent = detector.detect(frame), detector.detect(path)
        assert shared.names == sent.names and np.array_equal(shared.boxes_xyxy, sent.boxes_xyxy)
    assert detector.shares_memory and len(regions()) == 1


def test_there_are_as_many_regions_as_requests_at_once(detector: Detector) -> None:
    frames = FRAMES * 10
    expected = [detector.detect(path).names for path in PICTURES] * 10
    outcomes = list(detector.detect_many(frames, in_flight=3))
    assert [outcome.detections.names for outcome in outcomes if isinstance(outcome, Detected)] == expected
    assert detector.shares_memory and 1 <= len(regions()) <= 3
    assert set(detector.transport.registered()) >= regions()


def test_a_list_of_frames_is_sent_in_batches_of_a_shape(detector: Detector) -> None:
    frames: list[NDArray[np.uint8]] = [FRAMES[0]] * 9 + [FRAMES[1]] * 2
    mixed = [*frames, str(PICTURES[2])]
    results = detector.detect(mixed)
    assert [one.names for one in results] == [detector.detect(one).names for one in mixed]


def test_they_are_unregistered_in_the_end(server: Server) -> None:
    with Detector(server.grpc_url, INT8) as detector, Detector(server.grpc_url, INT8) as other:
        detector.detect(FRAMES[0])
        (ours,) = (name for name in detector.transport.registered() if f"_{os.getpid()}_" in name)
        detector.close()
        assert ours not in other.transport.registered()


def test_a_server_that_forgot_a_region_is_given_another(server: Server) -> None:
    """As one that was started again does."""
    with Detector(server.grpc_url, INT8, shared_memory=True) as detector:
        expected = [detections.names for detections in detector.detect(list(FRAMES))]
        forgotten = regions()
        for name in forgotten:
            detector.transport.unregister(name)
        assert [detections.names for detections in detector.detect(list(FRAMES))] == expected
        assert forgotten and regions() and not set(forgotten) & set(regions())


def test_no_room_is_no_crash(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with Detector(server.grpc_url, INT8) as detector:
        assert detector.detect(FRAMES[0]).names and not detector.shares_memory
    with (
        Detector(server.grpc_url, INT8, shared_memory=True) as detector,
        pytest.raises(SharedMemoryRefused, match="No sp"),
    ):
        detector.detect(FRAMES[0])


def test_nothing_is_shared_with_another_machine() -> None:
    assert not Detector("triton.example:8001").shares_memory and Detector("127.0.0.1:1").shares_memory


HOLDER = """
import sys, time, cv2
from nas_client import Detected, Detector
detector = Detector(sys.argv[1], sys.argv[2])
detector.detect(cv2.imread(sys.argv[3], cv2.IMREAD_COLOR_RGB))
print("held", flush=True)
if sys.argv[4] == "wait":
    time.sleep(60)
elif sys.argv[4] == "raise":
    raise SystemExit("on purpose")
"""


@pytest.mark.parametrize(
    ("how", "number"), [("return", 0), ("raise", 0), ("wait", signal.SIGINT), ("wait", signal.SIGKILL)]
)
def test_they_are_released_on_any_exit(how: str, number: int, server: Server) -> None:
    command = [sys.executable, "-c", HOLDER, server.grpc_url, INT8, str(SAMPLES / "bus.jpg"), how]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        if number:
            process.send_signal(number)
        process.wait(300)
        deadline = time.monotonic() + 10
        mine = f"nas_client_{process.pid}_"
        while any(name.startswith(mine) for name in regions()) and time.monotonic() < deadline:
            time.sleep(0.1)
    assert not any(name.startswith(mine) for name in regions())
    with Detector(server.grpc_url, INT8) as detector:
        left = [name for name in detector.transport.registered() if name.startswith(mine)]
        assert bool(left) == (number == signal.SIGKILL)
        detector.detect(FRAMES[0])
        assert not any(name.startswith(mine) for name in detector.transport.registered())
