"""Videos through nas-client detect beside the served engine alone, interleaved in one run.

    make video       # or: .venv/bin/python benchmarks/video.py --json benchmarks/video.json

The engine alone is the model NAME_engine under perf_analyzer with canvases in shared memory, at the best of 2, 4 and 8
at a time: no decoding, no letterbox, no NMS, no client. The videos are pans over bus.jpg; decoding, requests and
reading the results overlap, and with --save drawing and writing the video too. All of it shares the engine's cores.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from common import BUS, build_demo, machine
from nas_client import Detector
from nas_client.bench import perf_analyzer
from nas_client.bench.perf_analyzer import Load
from nas_client.bench.sweep import Contender
from nas_client.media.video_file import VideoFile
from nas_serve import Server
from rich.console import Console
from rich.progress import track
from rich.table import Table

SIZES_WH = {"640 x 480": (640, 480), "1280 x 720": (1280, 720), "1920 x 1080": (1920, 1080)}
WAYS: dict[str, list[str]] = {"": [], ", saved": ["--save", "out"], ", not in shared memory": ["--no-shared-memory"]}


def pan(path: Path, size_wh: tuple[int, int], frames: int) -> None:
    """A video whose window wanders over bus.jpg."""
    width, height = size_wh
    image = cv2.imread(str(BUS), cv2.IMREAD_COLOR_RGB)
    factor = 1.1 * max(width / image.shape[1], height / image.shape[0])
    image = cv2.resize(image, None, fx=factor, fy=factor)
    with VideoFile(path, fps=25) as video:
        for i in range(frames):
            angle = 2 * np.pi * i / frames
            left = int((image.shape[1] - width) * (0.5 + 0.5 * np.sin(angle)))
            top = int((image.shape[0] - height) * (0.5 + 0.5 * np.cos(angle)))
            video.write(np.ascontiguousarray(image[top : top + height, left : left + width]), i)  # type: ignore[arg-type]


def rate(command: list[str], folder: Path) -> float:
    """Frames per second, as nas-client says."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    said = re.search(r"([\d.]+) per second", done.stderr)
    assert said is not None, done.stderr
    return float(said[1])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--frames", type=int, default=300, help="of each int8 video; a fifth as many for fp16")
    parser.add_argument("--json", type=Path, help="write the result there too")
    arguments = parser.parse_args()
    analyzer = perf_analyzer.find()
    result: dict[str, Any] = machine()
    console = Console(width=100)
    for precision, frames in (("int8", arguments.frames), ("fp16", arguments.frames // 5)):
        result[precision] = one = compare(analyzer, precision, frames, arguments.rounds)
        table = Table(
            "video", "frames per s", "of the engine's", title=f"{precision}: {one['engine_alone_per_second']}/s"
        )
        for title, video in one["videos"].items():
            table.add_row(title, f"{video['per_second']}", f"{video['of_engine']:.2f}")
        console.print(table, f"engine alone: {one['engine_alone_per_second']} per s")
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")
    return 0


def compare(analyzer: perf_analyzer.Analyzer, precision: str, frames: int, rounds: int) -> dict[str, Any]:
    """Rates of one model."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        name = build_demo(folder / "repository", precision)
        server = stack.enter_context(Server(folder / "repository", open_shared_memory=True))
        alone = Contender("engine", Detector(server.grpc_url, name), [BUS.read_bytes()], ("engine",), "system")
        stack.callback(alone.close)
        client = str(Path(sys.executable).parent / "nas-client")
        commands = {}
        for title, size_wh in SIZES_WH.items():
            path = folder / f"{size_wh[0]}.mp4"
            pan(path, size_wh, frames)
            for way, options in WAYS.items():
                command = [client, "detect", str(path), "--url", server.grpc_url, "--model", name, *options]
                commands[title + way] = [*command, "--in-flight", "8", "--format", "jsonl", "--output", "boxes.jsonl"]
        rates: dict[str, list[float]] = {title: [] for title in commands}
        engine: list[float] = []
        loads = [Load("concurrency", n) for n in (2, 4, 8)]
        for _ in track(range(rounds), f"measuring {precision}", console=Console(stderr=True)):
            engine.append(max(alone.measure(analyzer, "engine", load, 0.7).measured.throughput for load in loads))
            for title, command in commands.items():
                rates[title].append(rate(command, folder))
    return {
        "engine_alone_per_second": round(statistics.median(engine), 1),
        "videos": {
            title: {
                "per_second": round(statistics.median(values), 1),
                "of_engine": round(statistics.median(v / e for v, e in zip(values, engine, strict=True)), 3),
            }
            for title, values in rates.items()
        },
    }


if __name__ == "__main__":
    sys.exit(main())
