"""The served model beside what people would use instead, interleaved in one run.

    make bench

From the JPEG bytes of bus.jpg to its boxes, by 1, 4 and 16 clients:

  served       nas-client's Detector over gRPC, the int8 ensemble in a real Triton
  openvino     the int8 graph in this process, compiled for one client or for several: the bound
  fastapi      the int8 graph behind a FastAPI endpoint, OpenVINO's defaults
  onnxruntime  ONNX Runtime in process, the fp16 graph: on a CPU its int8 convolutions are slower than its float32 ones
  pytorch      float32 network as loaded from the checkpoint, in process

Each contender has a process of its own. Rounds alternate, so that a busy machine slows all alike; ratios are what
counts. Memory is the proportional set size of what computes: of the server's processes, or of the program itself.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import queue
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
from common import BUS, build_demo, compiled, detect, graph_file, machine
from rich.console import Console
from rich.progress import track
from rich.table import Table

CLIENTS = (1, 4, 16)
LIMITS = {"served / openvino": ("at most", 1.4), "pytorch / served": ("at least", 8.0)}
_MB = 1 << 20
Run = Callable[[], object]


@dataclass(frozen=True)
class Models:
    """What the contenders run."""

    repository: Path
    int8: str
    fp16: str


@contextlib.contextmanager
def served(models: Models, data: bytes) -> Iterator[Callable[[int], Run]]:
    from nas_client import Detector
    from nas_serve import Server

    with Server(models.repository, models=[models.int8]) as server, Detector(server.grpc_url, models.int8) as detector:
        yield lambda clients: lambda: detector.detect(data)


@contextlib.contextmanager
def openvino(models: Models, data: bytes) -> Iterator[Callable[[int], Run]]:
    graph = graph_file(models.repository, models.int8)

    def runner(hint: str) -> Run:
        model = compiled(graph, PERFORMANCE_HINT=hint)
        free: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for _ in range(model.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")):
            free.put(model.create_infer_request())

        def infer(canvas: Any) -> Any:
            request = free.get()
            try:
                return request.infer({0: canvas}, share_inputs=True).to_tuple()
            finally:
                free.put(request)

        return lambda: detect(data, infer)

    alone, several = runner("LATENCY"), runner("THROUGHPUT")
    yield lambda clients: alone if clients == 1 else several


@contextlib.contextmanager
def fastapi(models: Models, data: bytes) -> Iterator[Callable[[int], Run]]:
    with contextlib.closing(socket.socket()) as claim:
        claim.bind(("127.0.0.1", 0))
        port = claim.getsockname()[1]
    command = [sys.executable, "-m", "uvicorn", "fastapi_app:app", "--port", str(port), "--log-level", "warning"]
    environment = os.environ | {"GRAPH": str(graph_file(models.repository, models.int8))}
    limits = httpx.Limits(max_connections=max(CLIENTS), max_keepalive_connections=max(CLIENTS))
    with (
        subprocess.Popen(command, cwd=Path(__file__).parent, env=environment) as process,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", limits=limits, timeout=60) as http,
    ):
        try:
            for _ in range(300):
                with contextlib.suppress(httpx.TransportError):
                    http.get("/docs").raise_for_status()
                    break
                time.sleep(0.1)
            yield lambda clients: lambda: http.post("/detect", content=data).raise_for_status().json()
        finally:
            process.terminate()


@contextlib.contextmanager
def onnxruntime(models: Models, data: bytes) -> Iterator[Callable[[int], Run]]:
    import onnxruntime as ort

    ort.set_default_logger_severity(3)
    session = ort.InferenceSession(graph_file(models.repository, models.fp16), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    yield lambda clients: lambda: detect(data, lambda canvas: session.run(None, {name: canvas}))


@contextlib.contextmanager
def pytorch(models: Models, data: bytes) -> Iterator[Callable[[int], Run]]:
    import torch
    from nas_build.graph.export import top_candidates
    from nas_build.inputs import bundled
    from nas_build.yolo_nas import checkpoint

    network = checkpoint.load(bundled.folder() / bundled.DEMO_CHECKPOINT).network()

    @torch.inference_mode()
    def infer(canvas: Any) -> Any:
        return top_candidates(*network(torch.from_numpy(canvas).float() / 255))

    yield lambda clients: lambda: detect(data, infer)


CONTENDERS: dict[str, Callable[[Models, bytes], Any]] = {
    "served": served,
    "openvino": openvino,
    "fastapi": fastapi,
    "onnxruntime": onnxruntime,
    "pytorch": pytorch,
}


def load(run: Run, clients: int, seconds: float) -> tuple[float, list[float]]:
    """Pictures per second, and milliseconds of each, of clients that ask again as soon as they are answered."""
    latencies: list[float] = []
    started = time.perf_counter()

    def ask() -> None:
        while (begun := time.perf_counter()) - started < seconds:
            run()
            latencies.append((time.perf_counter() - begun) * 1e3)

    threads = [threading.Thread(target=ask) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(latencies) / (time.perf_counter() - started), latencies


def memory_mb() -> float:
    """Of this process, or of those that serve it."""
    here = psutil.Process()
    computing = here.children(recursive=True) or [here]
    return sum(process.memory_full_info().pss for process in computing) / _MB


def work(contender: str, models: Models, data: bytes, pipe: Any) -> None:
    """A contender's process: measures what it is told to."""
    with CONTENDERS[contender](models, data) as prepare:
        for clients in CLIENTS:
            load(prepare(clients), clients, 0.5)
        pipe.send("ready")
        while (order := pipe.recv()) is not None:
            clients, seconds = order
            pipe.send((*load(prepare(clients), clients, seconds), memory_mb()))


def draw(results: dict[str, Any], path: Path) -> None:
    """Throughput by clients, latency of one, memory."""
    from matplotlib.figure import Figure

    names = list(results)
    figure = Figure(figsize=(11, 3.8), layout="constrained")
    throughput, latency, memory = figure.subplots(1, 3, width_ratios=(2, 1, 1))
    width = 0.8 / len(CLIENTS)
    for k, clients in enumerate(CLIENTS):
        bars = throughput.bar(
            [i + (k - 1) * width for i in range(len(names))],
            [results[name]["per_second"][str(clients)] for name in names],
            width,
            label=f"{clients} client{'s' * (clients > 1)}",
        )
        throughput.bar_label(bars, fmt="%.0f", fontsize=7)
    throughput.set_xticks(range(len(names)), names, fontsize=8)
    throughput.set_title("pictures per second")
    throughput.legend(fontsize=8)
    for axes, key, title in ((latency, "p50_ms", "one client, p50 ms"), (memory, "memory_mb", "memory, MB")):
        bars = axes.bar(names, [results[name][key] for name in names], color="tab:grey")
        axes.bar_label(bars, fmt="%.0f", fontsize=8)
        axes.tick_params(axis="x", labelrotation=35, labelsize=8)
        axes.set_title(title)
    figure.savefig(path, dpi=110)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each load in each round")
    parser.add_argument("--picture", type=Path, default=BUS)
    parser.add_argument("--json", type=Path, help="write the result there too")
    parser.add_argument("--plot", type=Path, help="draw it there")
    arguments = parser.parse_args()
    data = arguments.picture.read_bytes()
    spawn = multiprocessing.get_context("spawn")
    measured: dict[str, dict[int, list[tuple[float, list[float], float]]]] = {}
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        models = Models(folder, build_demo(folder, "int8"), build_demo(folder, "fp16"))
        pipes = {}
        for name in CONTENDERS:
            pipes[name], theirs = spawn.Pipe()
            process = spawn.Process(target=work, args=(name, models, data, theirs))
            process.start()
            stack.callback(process.join)
            stack.callback(pipes[name].send, None)
            pipes[name].recv()
            measured[name] = {clients: [] for clients in CLIENTS}
        for _ in track(range(arguments.rounds), "measuring", console=Console(stderr=True)):
            for clients in CLIENTS:
                for name, pipe in pipes.items():
                    pipe.send((clients, arguments.seconds))
                    measured[name][clients].append(pipe.recv())
    results = {
        name: {
            "p50_ms": round(statistics.median(ms for _, all_ms, _ in loads[1] for ms in all_ms), 1),
            "p95_ms": round(statistics.quantiles([ms for _, all_ms, _ in loads[1] for ms in all_ms], n=20)[-1], 1),
            "per_second": {str(c): round(statistics.median(rate for rate, *_ in loads[c]), 1) for c in CLIENTS},
            "memory_mb": round(max(megabytes for all_loads in loads.values() for *_, megabytes in all_loads)),
        }
        for name, loads in measured.items()
    }
    p50: dict[str, Any] = {name: result["p50_ms"] for name, result in results.items()}
    ratios = {f"{a} / {b}": p50[a] / p50[b] for a, b in (("served", "openvino"), ("pytorch", "served"))}
    about = machine()
    console = Console(width=120)
    columns = ("p50 ms", "p95 ms", *(f"per s, {clients}" for clients in CLIENTS), "memory MB")
    table = Table("contender", *columns, title=f"{about['cpu']}, {about['cores']} cores")
    for name, result in results.items():
        rates = (f"{rate}" for rate in result["per_second"].values())  # type: ignore[attr-defined]
        table.add_row(name, f"{result['p50_ms']}", f"{result['p95_ms']}", *rates, f"{result['memory_mb']}")
    console.print(table)
    passed = True
    for key, value in ratios.items():
        word, limit = LIMITS[key]
        holds = value <= limit if word == "at most" else value >= limit
        passed &= holds
        console.print(f"{key}: {value:.2f} ({word} {limit:g}: {'holds' if holds else 'FAILS'})")
    if arguments.json:
        whole = {
            **about,
            "picture": arguments.picture.name,
            "rounds": arguments.rounds,
            "ratios": {key: round(value, 2) for key, value in ratios.items()},
            "results": results,
        }
        arguments.json.write_text(json.dumps(whole, indent=2) + "\n")
    if arguments.plot:
        draw(results, arguments.plot)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
