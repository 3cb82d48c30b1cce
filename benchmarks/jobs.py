"""`nas-client job` beside `nas-client detect`, and with more workers before an engine that answers at once.

    .venv/bin/python benchmarks/jobs.py --json benchmarks/jobs.json

Small JPEGs, server, Ray and workers on the same cores; the commands take turns.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
from common import BUS, build_demo, machine
from nas_serve import Server
from rich.console import Console
from rich.table import Table

CLIENT = Path(sys.executable).with_name("nas-client")
WORKERS = (1, 2, 4)
_SMALL_WH = (240, 320)


def pictures(folder: Path, count: int) -> Path:
    """So many small ones."""
    folder.mkdir()
    data = cv2.imencode(".jpg", cv2.resize(cv2.imread(str(BUS)), _SMALL_WH))[1].tobytes()
    for number in range(count):
        (folder / f"{number:06d}.jpg").write_bytes(data)
    return folder


def seconds(*command: object) -> float:
    """That it takes, from start to end."""
    started = time.perf_counter()
    subprocess.run([str(CLIENT), *map(str, command)], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - started


def job(folder: Path, url: str, model: str, workers: int, in_flight: int) -> float:
    """Seconds of one that begins anew."""
    with tempfile.TemporaryDirectory() as output:
        load = ("--workers", workers, "--in-flight", in_flight)
        return seconds("job", folder, output, "--url", url, "--model", model, *load, "--json")


def detect(folder: Path, url: str, model: str) -> float:
    """Seconds of the command without Ray, as many requests under way as of the job's two workers."""
    load = ("--in-flight", 16, "--format", "jsonl", "--output", "/dev/null")
    return seconds("detect", folder, "--url", url, "--model", model, *load)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=3000)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    count = arguments.pictures
    with contextlib.ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        from recorded import build  # with PyTorch

        real, at_once = build_demo(place / "models"), build(place / "models")
        folder, few = pictures(place / "pictures", count), pictures(place / "one", 1)
        server = stack.enter_context(Server(place / "models", models=[real, at_once]))
        url = server.grpc_url
        start = job(few, url, real, 1, 1)
        took: dict[str, list[float]] = {}
        for _ in range(arguments.rounds):
            took.setdefault("detect", []).append(detect(folder, url, real))
            took.setdefault("job", []).append(job(folder, url, real, 2, 8))
            for workers in WORKERS:
                name = f"engine at once, {workers} workers"
                took.setdefault(name, []).append(job(folder, url, at_once, workers, 1))
    median = {name: statistics.median(values) for name, values in took.items()}
    table = Table(
        "command",
        "seconds",
        "pictures/s",
        "without the start",
        title=f"{count} pictures; a job starts in {start:.1f} s",
    )
    for name, value in median.items():
        rest = value - (0 if name == "detect" else start)
        table.add_row(name, " ".join(f"{one:.1f}" for one in took[name]), f"{count / value:.1f}", f"{count / rest:.1f}")
    Console(width=100).print(table)
    Console().print(f"job/detect: {median['detect'] / median['job']:.2f} of its throughput")
    if arguments.json:
        result: dict[str, Any] = {**machine(), "pictures": count, "start_s": start, "seconds": took}
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
