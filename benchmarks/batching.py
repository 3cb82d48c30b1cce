"""Which queue delay, instance counts and batch size serve mixed pictures best on this CPU, beside bare OpenVINO.

    make sweep

One Triton for each setting, all of the same model, and perf_analyzer on each in turn: JPEG pictures of four sizes, so
many requests at a time. Between them nothing but the graph, in this process, in the ways OpenVINO offers.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import bare_openvino, build_demo, graph_file, machine, mixed_pictures, spread
from google.protobuf import text_format
from matplotlib.figure import Figure
from nas_client import Detector
from nas_client.bench import perf_analyzer
from nas_client.bench.perf_analyzer import Load
from nas_client.bench.sweep import Contender, Point, sweep, to_dict
from nas_serve import Server
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from tritonclient.grpc import model_config_pb2 as pb


def _max_batch_size(size: int) -> Callable[[str, pb.ModelConfig], None]:
    def change(stage: str, config: pb.ModelConfig) -> None:
        config.max_batch_size = size
        for warmup in config.model_warmup:
            warmup.batch_size = min(warmup.batch_size, size)

    return change


def _delay(microseconds: int) -> Callable[[str, pb.ModelConfig], None]:
    def change(stage: str, config: pb.ModelConfig) -> None:
        if stage == "engine":
            config.dynamic_batching.max_queue_delay_microseconds = microseconds

    return change


def _instances(of: str, count: int) -> Callable[[str, pb.ModelConfig], None]:
    def change(stage: str, config: pb.ModelConfig) -> None:
        if stage == of:
            config.instance_group[0].count = count

    return change


def _queue_limit(stage: str, config: pb.ModelConfig) -> None:
    if stage == "engine":
        config.dynamic_batching.default_queue_policy.max_queue_size = 128


SETTINGS: dict[str, Callable[[str, pb.ModelConfig], None]] = {
    "default": lambda stage, config: None,
    "delay 0.5 ms": _delay(500),
    "delay 5 ms": _delay(5000),
    "2 engines": _instances("engine", 2),
    "2 preprocesses": _instances("preprocess", 2),
    "batch 1": _max_batch_size(1),
    "batch 4": _max_batch_size(4),
    "batch 16": _max_batch_size(16),
    "queue of 128": _queue_limit,
}


def apply(change: Callable[[str, pb.ModelConfig], None], repository: Path) -> None:
    """Change the configs of a repository in place."""
    for path in repository.glob("*/config.pbtxt"):
        config = text_format.Parse(path.read_text(), pb.ModelConfig())
        change(path.parent.name.rpartition("_")[2], config)
        path.write_text(text_format.MessageToString(config, as_utf8=True))


def draw(points: list[Point], best: float, path: Path) -> None:
    """p95 over throughput, a line for each setting."""
    figure = Figure(figsize=(8, 5.5), layout="constrained")
    axes = figure.add_subplot()
    for setting in SETTINGS:
        line = [point for point in points if point.target == setting]
        style = {"linewidth": 3, "color": "black"} if setting == "default" else {"alpha": 0.8}
        axes.plot([p.throughput for p in line], [p.p95_ms for p in line], marker="o", label=setting, **style)  # type: ignore[arg-type]
    for point in points:
        if point.target == "default":
            axes.annotate(f"  {point.load}", (point.throughput, point.p95_ms))
    axes.axvline(best, linestyle="--", color="grey", label="bare OpenVINO, best")
    axes.set(xlabel="pictures per second", ylabel="p95 latency, ms", title="1 to 16 requests at a time, mixed sizes")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=110)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--window", type=float, default=0.8, help="seconds of a measurement window, three are taken")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--precision", choices=["int8", "fp16"], default="int8")
    parser.add_argument("--json", type=Path, help="write the result there too")
    parser.add_argument("--plot", type=Path, help="draw it there")
    arguments = parser.parse_args()
    analyzer = perf_analyzer.find()
    pictures = mixed_pictures()
    console = Console(stderr=True)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        name = build_demo(folder / "default", arguments.precision)
        targets = []
        for setting in arguments.settings:
            repository = folder / setting.replace(" ", "_")
            if not repository.exists():
                shutil.copytree(folder / "default", repository)
            apply(SETTINGS[setting], repository)
            server = stack.enter_context(Server(repository))
            target = Contender(setting, Detector(server.grpc_url, name), pictures)
            stack.callback(target.close)
            targets.append(target)
        ways = bare_openvino(graph_file(folder / "default", name))
        bare: dict[str, list[float]] = {way: [] for way in ways}
        loads = [Load("concurrency", value) for value in arguments.concurrency]
        with Progress(console=console) as bar:
            task = bar.add_task("sweep", total=len(loads) * len(targets) * arguments.rounds)
            measured = 0

            def advance(_: str) -> None:
                nonlocal measured
                bar.advance(task)
                measured += 1
                if measured % len(targets) == 0:  # once a round, so that a busy machine slows them alike
                    for way, run in ways.items():
                        bare[way].append(run(1.0))

            points = list(sweep(analyzer, targets, loads, arguments.rounds, arguments.window, advance))
    medians = {way: statistics.median(values) for way, values in bare.items()}
    best = max(medians.values())
    result: dict[str, Any] = {
        **machine(),
        "precision": arguments.precision,
        "pictures": "samples as JPEG with long sides 320, 480, 640, 800",
        "bare_openvino": {
            way: {"per_second": round(value, 1), "spread": round(spread(bare[way]), 2)}
            for way, value in medians.items()
        },
        "default_of_best": {str(p.load): round(p.throughput / best, 3) for p in points if p.target == "default"},
        "points": [to_dict(point) for point in points],
    }
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")
    if arguments.plot:
        draw(points, best, arguments.plot)
    table = Table(
        "setting", *(f"{value} at a time" for value in arguments.concurrency), title="pictures/s (p95 ms, batch)"
    )
    for setting in arguments.settings:
        cells = [f"{p.throughput:.1f} ({p.p95_ms:.0f}, {p.batch or 1:.1f})" for p in points if p.target == setting]
        table.add_row(setting, *cells)
    out = Console(width=120)
    out.print(table)
    for way, value in medians.items():
        out.print(f"bare OpenVINO, {way}: {value:.1f} pictures/s")
    for load_, ratio in result["default_of_best"].items():
        out.print(f"default, {load_} at a time: {ratio:.2f} of the best of them")
    return 0


if __name__ == "__main__":
    sys.exit(main())
