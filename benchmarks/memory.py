"""Resident memory of every process of a served model: idle, under load, and whether it grows.

    make memory      # or: .venv/bin/python benchmarks/memory.py --json benchmarks/memory.json

The demo int8 model in a real Triton. Pictures and frames of many sizes and files that are no pictures, 8 requests at a
time. In the first half buffers and malloc's arenas find their sizes; in the second nothing may grow.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
from common import build_demo, machine, mixed_pictures
from nas_client import Detector, Failed
from nas_client.detection.image_input import ImageInput
from nas_ensembles import contract, images
from nas_serve import Server
from rich.console import Console
from rich.progress import track
from rich.table import Table

MB = 1 << 20
NO_PICTURE = b"no picture"
WARM_UP = 1000
EVERY = 500
MOST_GROWTH_MB = 8.0  # of all processes together; so much comes and goes


def processes() -> dict[str, psutil.Process]:
    """Of the server that this program started, by what they do."""
    found = {}
    for process in psutil.Process().children(recursive=True):
        command = " ".join(process.cmdline())
        if "python_backend_stub" in command:
            found[next(stage for stage in contract.STAGES if f"_{stage}/" in command)] = process
        elif process.name() in ("tritonserver", "envoy"):
            found[process.name()] = process
        elif command.endswith("nas_serve/supervision"):
            found["supervisor"] = process
    return {name: found[name] for name in ("envoy", "supervisor", "tritonserver", *contract.STAGES)}


def measure(of: dict[str, psutil.Process]) -> dict[str, dict[str, float]]:
    """Resident and proportional set size (shared pages are divided among those that share them), MB."""
    sizes = {}
    for name, process in of.items():
        info = process.memory_full_info()
        sizes[name] = {"rss_mb": info.rss / MB, "pss_mb": info.pss / MB, "own_mb": info.uss / MB}
    return sizes


def requests() -> Iterator[ImageInput]:
    """Pictures, frames, and every twentieth is neither."""
    pictures = mixed_pictures()
    frames = [images.decode(picture) for picture in pictures]
    for number, (picture, frame) in enumerate(zip(itertools.cycle(pictures), itertools.cycle(frames), strict=True)):
        yield NO_PICTURE if number % 20 == 19 else frame if number % 2 else picture


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=5000, help="after the first thousand")
    parser.add_argument("--model-repository", type=Path, help="has the demo int8 model; built if not given")
    parser.add_argument("--json", type=Path, help="write the result there too")
    arguments = parser.parse_args()
    with contextlib.ExitStack() as stack:
        repository = arguments.model_repository
        if repository is None:
            repository = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            build_demo(repository)
        name = contract.model_name("s", "int8")
        server = stack.enter_context(Server(repository, models=[name]))
        detector = stack.enter_context(Detector(server.grpc_url, name))
        of = processes()
        idle = measure(of)
        steps: list[dict[str, float]] = []
        under_load = idle
        total = WARM_UP + arguments.requests
        outcomes = detector.detect_many(itertools.islice(requests(), total), in_flight=8)
        bar = track(outcomes, "requests", total=total, console=Console(stderr=True))
        for number, outcome in enumerate(bar, start=1):
            refused = isinstance(outcome.item, bytes) and outcome.item == NO_PICTURE
            if isinstance(outcome, Failed) != refused:
                raise AssertionError(f"request {number}: {outcome}")
            if number >= WARM_UP and (number - WARM_UP) % EVERY == 0:
                under_load = measure(of)
                steps.append({stage: sizes["own_mb"] for stage, sizes in under_load.items()})
    growth = {stage: steps[-1][stage] - steps[len(steps) // 2][stage] for stage in of}
    result = {
        **machine(),
        "requests": arguments.requests,
        "idle": idle,
        "under_load": under_load,
        "own_mb_by_500_requests": steps,
        "growth_mb": growth,
    }
    table = Table("process", "idle RSS", "idle PSS", "RSS under load", "PSS under load", "growth", title="MB")
    rows = [
        (stage, idle[stage]["rss_mb"], idle[stage]["pss_mb"], under_load[stage]["rss_mb"], under_load[stage]["pss_mb"])
        for stage in of
    ]
    for stage, *sizes in rows:
        table.add_row(stage, *(f"{size:.0f}" for size in sizes), f"{growth[stage]:+.1f}")
    sums = [sum(column) for column in list(zip(*rows, strict=True))[1:]]
    table.add_row("together", *(f"{size:.0f}" for size in sums), f"{sum(growth.values()):+.1f}")
    console = Console(width=100)
    console.print(table)
    grew = sum(growth.values())
    holds = grew <= MOST_GROWTH_MB
    console.print(
        f"growth in the second half of {arguments.requests} requests: {grew:+.1f} MB (at most {MOST_GROWTH_MB:g}: "
        f"{'holds' if holds else 'FAILS'})"
    )
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
