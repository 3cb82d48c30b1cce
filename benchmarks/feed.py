"""All but the engine: pictures a second that a real Triton and the real ensembles bring to one that answers at once.

    make feed      # or: .venv/bin/python benchmarks/feed.py --json benchmarks/feed.json --plot docs/feed.png

perf_analyzer asks for pictures of a kind, so many at a time, on one core and on two, itself among them. Beside it the
bound: decode, letterbox and NMS of the same pictures in threads of one process, without a server. CPU time is that of
the processes, divided by the pictures they answered.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import psutil
from common import BUS, machine
from matplotlib.figure import Figure
from nas_client import Detector
from nas_client.bench import perf_analyzer
from nas_client.bench.perf_analyzer import Load
from nas_client.bench.sweep import ENSEMBLE, Contender
from nas_ensembles import contract, images, memory
from nas_ensembles.letterbox import LetterboxSpec
from nas_ensembles.pipeline import Candidates, finish, prepare
from nas_serve import Server
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

SIZES_WH = ((640, 480), (810, 1080), (1920, 1080), (3840, 2160))
FRAME, PNG = "frame 810 x 1080", "PNG 810 x 1080"
_BOUND_S = 1.5


@dataclass(frozen=True)
class Kind:
    """Of pictures.

    Attributes:
        name: in tables.
        data: an encoded picture.
        frame: it is sent decoded, through shared memory.
    """

    name: str
    data: bytes
    frame: bool = False


@dataclass(frozen=True)
class Point:
    """One measurement.

    Attributes:
        kind: of pictures.
        protocol: grpc or http; "" for the bound.
        in_flight: requests at a time; threads of the bound.
        cores: for everything.
        per_s: pictures a second.
        cpu_ms: CPU milliseconds a picture, by process.
    """

    kind: str
    protocol: str
    in_flight: int
    cores: int
    per_s: float
    cpu_ms: dict[str, float]


def kinds() -> list[Kind]:
    """bus.jpg as it is, and at other sizes, its quality the same."""
    bus = cv2.imread(str(BUS))

    def encoded(suffix: str, size_wh: tuple[int, int]) -> bytes:
        resized = cv2.resize(bus, size_wh, interpolation=cv2.INTER_AREA)
        return bytes(cv2.imencode(suffix, resized, [cv2.IMWRITE_JPEG_QUALITY, 90] if suffix == ".jpg" else [])[1])

    as_it_is = (bus.shape[1], bus.shape[0])
    jpegs = [
        Kind(f"JPEG {w} x {h}", BUS.read_bytes() if (w, h) == as_it_is else encoded(".jpg", (w, h)))
        for w, h in SIZES_WH
    ]
    return [*jpegs, Kind(FRAME, BUS.read_bytes(), frame=True), Kind(PNG, encoded(".png", as_it_is))]


def bound(kind: Kind, candidates: Candidates, cores: int) -> Point:
    """The same functions, in as many threads as there are cores."""
    spec, thresholds = LetterboxSpec(), contract.Thresholds()
    frame = images.decode(kind.data)

    def one() -> None:
        canvas, geometry = prepare(frame if kind.frame else images.decode(kind.data), spec)
        finish(candidates, geometry, thresholds)

    def work(until: float) -> int:
        done = 0
        while time.perf_counter() < until:
            one()
            done += 1
        return done

    cv2.setNumThreads(1)
    memory.keep_freed_memory()
    one()
    with ThreadPoolExecutor(cores) as pool:
        cpu, started = time.process_time(), time.perf_counter()
        done = sum(pool.map(work, [started + _BOUND_S] * cores))
        seconds = time.perf_counter() - started
    return Point(kind.name, "", cores, cores, done / seconds, {"threads": (time.process_time() - cpu) * 1e3 / done})


def cpu_seconds() -> dict[str, float]:
    """Of the processes that this program started, by what they do."""
    seconds: dict[str, float] = {}
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            name = what_it_does(process)
            seconds[name] = seconds.get(name, 0) + times.user + times.system
    return seconds


def what_it_does(process: psutil.Process) -> str:
    """The stage of a Python model; else its name, if it is of the server."""
    command = process.cmdline()
    if "triton_python_backend_stub" in " ".join(command):
        return next(stage for stage in contract.STAGES if any(f"_{stage}/" in word for word in command))
    return process.name() if process.name() in ("tritonserver", "envoy") else "other"


def served(
    contender: Contender, analyzer: perf_analyzer.Analyzer, protocol: str, kind: Kind, in_flight: int, window_s: float
) -> Point:
    """One measurement of the ensemble."""
    name = contender.detector.model.name
    model = contract.frames_name(name) if kind.frame else name

    def answered() -> int:
        return int(contender.detector.transport.statistics(model).get("inference_count", 0))

    cpu, before = cpu_seconds(), answered()
    measured = contender.measure(analyzer, ENSEMBLE, Load("concurrency", in_flight), window_s).measured
    pictures = answered() - before
    used = {name: (seconds - cpu.get(name, 0)) * 1e3 / pictures for name, seconds in cpu_seconds().items()}
    cores = len(os.sched_getaffinity(0))
    return Point(kind.name, protocol, in_flight, cores, measured.throughput, used)


def recorded_candidates(detector: Detector) -> Candidates:
    """What the engine answers."""
    canvas = prepare(images.decode(BUS.read_bytes()), LetterboxSpec()).canvas[None]
    names = tuple(tensor.name for tensor in contract.CANDIDATE_TENSORS)
    engine = contract.stage_name(detector.model.name, "engine")
    found = detector.transport.infer(engine, {contract.IMAGES.name: canvas}, names)
    return Candidates(*(found[name][0] for name in names))


def measure(repository: Path, name: str, arguments: argparse.Namespace, tell: Callable[[str], None]) -> Iterator[Point]:
    """Everything on the first core, then on the first two, and so on."""
    analyzer = perf_analyzer.find()
    chosen = [kind for kind in kinds() if not arguments.kinds or kind.name in arguments.kinds]
    everything = sorted(os.sched_getaffinity(0))
    for cores in arguments.cores:
        os.sched_setaffinity(0, everything[:cores])
        with Server(repository, models=[name], open_shared_memory=True) as server:
            urls = {"grpc": server.grpc_url, "http": f"http://{server.http_url}"}
            with Detector(server.grpc_url, name) as detector:
                candidates = recorded_candidates(detector)
            for kind in chosen:
                tell(f"{kind.name}, bound")
                yield bound(kind, candidates, cores)
                for protocol in arguments.protocols:
                    contender = Contender(
                        kind.name,
                        Detector(urls[protocol], name, shared_memory=False),
                        [kind.data],
                        shared_memory="system" if kind.frame else "none",
                        frames=kind.frame,
                    )
                    with contextlib.closing(contender):
                        for in_flight in arguments.in_flight:
                            tell(f"{kind.name}, {protocol}, {in_flight} at a time")
                            yield served(contender, analyzer, protocol, kind, in_flight, arguments.window)


def best(points: Sequence[Point], kind: str, cores: int, served: bool) -> Point:
    return max(
        (p for p in points if (p.kind, p.cores) == (kind, cores) and bool(p.protocol) == served), key=lambda p: p.per_s
    )


def draw(points: Sequence[Point], path: Path) -> None:
    """Served pictures a second beside the bound, by kind and cores."""
    names = list(dict.fromkeys(point.kind for point in points))
    columns = sorted({point.cores for point in points})
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    axes = figure.add_subplot()
    width = 0.8 / (2 * len(columns))
    for number, (cores, is_served) in enumerate(itertools.product(columns, (False, True))):
        rates = [best(points, name, cores, is_served).per_s for name in names]
        places = [place + (number - len(columns) + 0.5) * width for place in range(len(names))]
        label = f"{'served, client included' if is_served else 'the functions alone'}, {cores} core{'s'[: cores > 1]}"
        colour = f"C{columns.index(cores)}"
        bars = axes.bar(places, rates, width, label=label, color=colour, alpha=1.0 if is_served else 0.35)
        axes.bar_label(bars, fmt="%.0f", fontsize=7)
    axes.set_xticks(range(len(names)), names)
    axes.set(ylabel="pictures per second", yscale="log", title="Everything but the engine")
    axes.legend()
    figure.savefig(path, dpi=110)


def table(points: Sequence[Point]) -> Table:
    """A row a kind, cores and protocol."""
    shown = Table("picture", "cores", "over", "pictures/s", "at a time", "of the bound", "CPU ms", "of which")
    for kind, cores in dict.fromkeys((point.kind, point.cores) for point in points):
        limit = best(points, kind, cores, served=False)
        shown.add_row(kind, str(cores), "no server", f"{limit.per_s:.0f}", "", "", f"{limit.cpu_ms['threads']:.2f}", "")
        for protocol in dict.fromkeys(p.protocol for p in points if p.protocol):
            one = best([p for p in points if p.protocol == protocol], kind, cores, served=True)
            mine = {name: ms for name, ms in one.cpu_ms.items() if name != "other"}
            parts = ", ".join(f"{name} {ms:.2f}" for name, ms in sorted(mine.items(), key=lambda item: -item[1]))
            shown.add_row(
                "", "", protocol, f"{one.per_s:.0f}", str(one.in_flight), f"{one.per_s / limit.per_s:.2f}",
                f"{sum(mine.values()):.2f}", parts,
            )  # fmt: skip
    return shown


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model-repository", type=Path, help="where the model of recorded.py is, or is built")
    parser.add_argument("--kinds", nargs="+", help="of pictures; all if not given")
    parser.add_argument("--protocols", nargs="+", default=["grpc", "http"])
    parser.add_argument("--in-flight", nargs="+", type=int, default=[1, 8, 32])
    parser.add_argument("--cores", nargs="+", type=int, default=sorted({1, min(2, len(os.sched_getaffinity(0)))}))
    parser.add_argument("--window", type=float, default=0.8, help="seconds of a measurement window, three are taken")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()
    with contextlib.ExitStack() as stack:
        repository = arguments.model_repository or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        from recorded import build  # with PyTorch

        name = build(repository)
        bar = stack.enter_context(Progress(console=Console(stderr=True), transient=True))
        task = bar.add_task("", total=None)
        points = list(measure(repository, name, arguments, lambda what: bar.update(task, description=what)))
    Console(width=150).print(table(points))
    if arguments.json:
        result: dict[str, Any] = {**machine(), "points": [asdict(point) for point in points]}
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")
    if arguments.plot:
        draw(points, arguments.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
