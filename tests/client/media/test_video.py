"""Videos and streams: decoded ahead, in order, live where they are live; detected in and written."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from nas_client import Detector
from nas_client.media.video import Frame, Video, is_video
from nas_client.media.video_file import VideoFile
from nas_serve import Server
from numpy.typing import NDArray

from support.samples import SAMPLES

CLIENT = Path(sys.executable).parent / "nas-client"
INT8 = "yolo_nas_s_int8"
FRAMES = 40


def marked(index: int, size_wh: tuple[int, int] = (160, 96)) -> NDArray[np.uint8]:
    """A picture whose colour tells its number, red more than blue."""
    image = np.empty((size_wh[1], size_wh[0], 3), np.uint8)
    image[:] = (60 + 4 * index, 60, 10)
    return image


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Frames that say their number."""
    path = tmp_path_factory.mktemp("videos") / "marked.mp4"
    with VideoFile(path, fps=20) as video:
        for i in range(FRAMES):
            video.write(marked(i), i)
    return path


@pytest.fixture(scope="module")
def bus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A slow pan over bus.jpg."""
    path = tmp_path_factory.mktemp("videos") / "bus.mp4"
    image = cv2.imread(str(SAMPLES / "bus.jpg"), cv2.IMREAD_COLOR_RGB)
    with VideoFile(path, fps=25) as video:
        for i in range(FRAMES):
            video.write(np.ascontiguousarray(image[i : i + 1000, i : i + 760]), i)
    return path


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a/clip.MP4", True),
        ("rtsp://host:554/stream?x=1", True),
        ("https://host/clip.webm?token=a.jpg", True),
        ("0", True),
        ("/dev/video2", True),
        ("bus.jpg", False),
        ("https://host/bus.jpg", False),
        ("-", False),
    ],
)
def test_what_is_a_video(name: str, expected: bool) -> None:
    assert is_video(name) == expected


def test_a_file_whose_name_is_a_number_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "0").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    assert not is_video("0")


def test_frames_come_in_order_and_in_rgb(clip: Path) -> None:
    with Video(str(clip)) as video:
        assert (video.total, video.fps, video.live) == (FRAMES, 20, False)
        frames = list(video)
    assert [frame.index for frame in frames] == list(range(FRAMES)) and video.dropped == 0
    assert np.allclose([frame.time_s for frame in frames], np.arange(FRAMES) / 20)
    means = np.array([frame.image.mean(axis=(0, 1)) for frame in frames])
    assert (np.diff(means[:, 0]) > 0).all() and (means[:, 0] > means[:, 2]).all()


def test_a_file_waits_and_can_be_left(clip: Path) -> None:
    before = threading.active_count()
    with Video(str(clip)) as video:
        first = next(iter(video))
        time.sleep(0.3)
        second = next(iter(video))
    assert (first.index, second.index) == (0, 1)
    assert threading.active_count() == before


@pytest.mark.parametrize(("name", "content"), [("gone.mp4", None), ("bad.mp4", b"no video at all"), ("empty.mp4", b"")])
def test_what_cannot_be_opened(name: str, content: bytes | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(OSError, match="no such file" if content is None else "cannot be opened as a video"):
        Video(str(tmp_path / name))


def test_a_camera_that_is_not_there() -> None:
    with pytest.raises(OSError, match="cannot be opened as a camera"):
        Video("/dev/video93")


def codec(path: Path) -> str:
    fourcc = int(cv2.VideoCapture(str(path), cv2.CAP_FFMPEG).get(cv2.CAP_PROP_FOURCC))
    return fourcc.to_bytes(4, "little").decode()


def test_browsers_play_what_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """H.264 by PyAV; MPEG-4, which they do not play, is what OpenCV has without it."""
    pytest.importorskip("av")
    for name, expected in (("with.mp4", "h264"), ("without.mp4", "FMP4")):
        with VideoFile(tmp_path / name, fps=12.5) as video:
            for i in range(5):
                video.write(marked(i), i)
        assert codec(tmp_path / name) == expected
        assert cv2.VideoCapture(str(tmp_path / name)).get(cv2.CAP_PROP_FPS) == pytest.approx(12.5)
        monkeypatch.setitem(sys.modules, "av", None)


def test_odd_sizes_and_dropped_frames_are_written(tmp_path: Path) -> None:
    with VideoFile(tmp_path / "x.mp4", fps=10) as video:
        for index in (0, 1, 4, 5):  # 2 and 3 were dropped: the time they took is kept
            video.write(marked(index, (161, 97)), index)
        video.write(marked(6, (320, 200)), 6)
    with Video(str(tmp_path / "x.mp4")) as written:
        frames = list(written)
    assert len(frames) == 7 and {frame.image.shape for frame in frames} == {(96, 160, 3)}
    assert [p.name for p in tmp_path.iterdir()] == ["x.mp4"]


def test_a_video_without_frames_is_none(tmp_path: Path) -> None:
    VideoFile(tmp_path / "x.mp4", fps=10).close()
    assert not list(tmp_path.iterdir())


def test_an_unfinished_video_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    video = VideoFile(tmp_path / "x.mp4", fps=10)
    for i in range(5):
        video.write(marked(i), i)
    monkeypatch.setattr(video, "_written", 9)  # as if the disk had taken five of nine
    with pytest.raises(OSError, match="5 of 9 frames were written"):
        video.close()
    assert not list(tmp_path.iterdir())


@pytest.fixture
def stream() -> Iterator[str]:
    """A real network stream, 25 frames a second, until the test ends."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as claim:
        claim.bind(("127.0.0.1", 0))
        port = claim.getsockname()[1]
    ended = threading.Event()

    def send() -> None:
        with av.open(f"udp://127.0.0.1:{port}?pkt_size=1316", "w", format="mpegts") as out:
            sent = out.add_stream("mpeg4", rate=25, options={"g": "5"})
            sent.width, sent.height, sent.pix_fmt = 160, 96, "yuv420p"
            index = 0
            while not ended.wait(0.04):
                for packet in sent.encode(av.VideoFrame.from_ndarray(marked(index % 40), format="rgb24")):
                    out.mux(packet)
                index += 1

    sender = threading.Thread(target=send)
    sender.start()
    yield f"udp://127.0.0.1:{port}"
    ended.set()
    sender.join()


def test_a_stream_stays_live(stream: str) -> None:
    """Who takes every fifth of a second gets the newest frame, not a queue of old ones."""
    with Video(stream) as video:
        assert video.live and video.total is None
        taken: list[Frame] = []
        for frame in video:
            taken.append(frame)
            time.sleep(0.2)
            if len(taken) == 12:
                break
    steps = np.diff([frame.index for frame in taken])[2:]
    assert video.dropped > 20 and 3 <= steps.mean() <= 8
    assert taken[-1].index == pytest.approx(25 * taken[-1].time_s, abs=15)


def test_a_stream_is_detected_until_ctrl_c(stream: str, server: Server, tmp_path: Path) -> None:
    command = [str(CLIENT), "detect", stream, "--url", server.grpc_url, "--model", INT8, "--format", "jsonl"]
    with subprocess.Popen([*command, "--save", "out"], stdout=subprocess.PIPE, cwd=tmp_path, text=True) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(10)]  # they come while it runs
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=300)
    assert process.returncode == 130
    frames = [json.loads(line)["frame"] for line in [*lines, *rest.splitlines()]]
    assert frames == sorted(frames)
    (saved,) = (tmp_path / "out").iterdir()
    with Video(str(saved)) as video:  # Ctrl-C may come when a frame is in there and not yet printed
        assert len(list(video)) >= frames[-1] + 1


def detect(server: Server, folder: Path, *arguments: object, code: int = 0) -> tuple[str, str]:
    command = [str(CLIENT), "detect", *map(str, arguments), "--url", server.grpc_url, "--model", INT8]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=300, check=False)
    assert done.returncode == code and "Traceback" not in done.stderr, done.stderr
    return done.stdout, " ".join(done.stderr.split())


def test_every_frame_is_detected_as_its_picture_would_be(bus: Path, server: Server, tmp_path: Path) -> None:
    out, errors = detect(server, tmp_path, bus, "--format", "jsonl", "--in-flight", 8)
    found = [json.loads(line) for line in out.splitlines()]
    assert [one["frame"] for one in found] == list(range(FRAMES)) and "40 frames, " in errors
    assert found[3]["source"] == str(bus) and found[3]["time_s"] == pytest.approx(0.12)
    with Video(str(bus)) as video, Detector(server.grpc_url, INT8, shared_memory=False) as detector:
        for frame, one in zip(video, found, strict=True):
            if frame.index % 8:
                continue
            png = cv2.imencode(".png", frame.image[..., ::-1])[1].tobytes()
            boxes = np.array([each["box_xyxy"] for each in one["detections"]])
            assert np.allclose(detector.detect(png).boxes_xyxy, boxes, atol=0.01)


def test_the_saved_video_shows_the_boxes(bus: Path, server: Server, tmp_path: Path) -> None:
    out, errors = detect(server, tmp_path, bus, SAMPLES / "chelsea.png", "none.mp4", "--save", "out", code=1)
    assert "none.mp4: no such file" in errors and "1 of 3 sources failed" in errors
    assert "bus.mp4" in out and "of 40" in out and "cat" in out
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["bus.mp4", "chelsea.png"]
    with Video(str(tmp_path / "out/bus.mp4")) as drawn, Video(str(bus)) as plain:
        assert drawn.fps == plain.fps
        changed = [np.abs(a.image.astype(int) - b.image).max() for a, b in zip(drawn, plain, strict=True)]
    assert len(changed) == FRAMES and min(changed) > 100


def test_other_formats_name_the_frame(bus: Path, server: Server, tmp_path: Path) -> None:
    out, _ = detect(server, tmp_path, bus, "--format", "csv", "--max-frames", 2)
    assert f"{bus}#1," in out and f"{bus}#2," not in out
    detect(server, tmp_path, bus, "--format", "yolo", "--output", "labels", "--max-frames", 2)
    assert sorted(p.name for p in (tmp_path / "labels/labels").iterdir()) == ["bus_000000.txt", "bus_000001.txt"]
    assert sorted(p.name for p in (tmp_path / "labels/images").iterdir()) == ["bus_000000.jpg", "bus_000001.jpg"]
    detect(server, tmp_path, bus, "--format", "coco", "--output", "x.json", "--max-frames", 2)
    images = json.loads((tmp_path / "x.json").read_text())["images"]
    assert [image["file_name"] for image in images] == [f"{bus.name}#0", f"{bus.name}#1"]
