"""Find Triton's perf_analyzer and run it for one load at a time."""

from __future__ import annotations

import base64
import csv
import importlib.util
import json
import os
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import BenchError
from ..transport import Address

SharedMemory = Literal["none", "system", "cuda"]
SDK_IMAGE = "nvcr.io/nvidia/tritonserver:26.08-py3-sdk"
# Shared libraries that the wheel's binary wants, and where they come from.
_LIBRARIES = {"libb64.so.0d": "apt install libb64-0d", "libcudart.so.12": "pip install nvidia-cuda-runtime-cu12"}
_ANY_STABILITY = 10**6  # per cent: rounds show how steady a load is, perf_analyzer is not to repeat until it likes it


@dataclass(frozen=True)
class Load:
    """What is asked of the server: so many requests at a time, or so many per second."""

    kind: Literal["concurrency", "request_rate"]
    value: float

    def __str__(self) -> str:
        return f"{self.value:g}" + (" /s" if self.kind == "request_rate" else "")


@dataclass(frozen=True)
class Measured:
    """What perf_analyzer saw from the client's side; latencies in milliseconds."""

    throughput: float
    mean_ms: float
    p50_ms: float
    p95_ms: float
    p99_ms: float


@dataclass(frozen=True)
class Analyzer:
    """A perf_analyzer that starts.

    Attributes:
        command: that runs it; `{folder}` in it stands for the folder of its input and output files.
        environment: it wants.
        version: as it says.
    """

    command: tuple[str, ...]
    environment: Mapping[str, str]
    version: str

    def run(
        self,
        model: str,
        address: Address,
        load: Load,
        data: Path,
        window_s: float,
        shared_memory: SharedMemory = "none",
        output_bytes: int = 100_000,
    ) -> Measured:
        """Put one load on a model.

        Args:
            model: its name on the server.
            address: of the server.
            load: to keep up.
            data: from `write_data`; the result file is written beside it.
            window_s: length of a measurement window; three are taken.
            shared_memory: how inputs and outputs travel.
            output_bytes: room for each output in shared memory.

        Raises:
            BenchError: with perf_analyzer's own words.
        """
        result = data.parent / "result.csv"
        result.unlink(missing_ok=True)
        rising = {"concurrency": "--concurrency-range", "request_rate": "--request-rate-range"}[load.kind]
        arguments = [
            *("-m", model, "-i", address.protocol, "-u", address.host_port),
            *(rising, f"{load.value:g}:{load.value:g}:1", "--input-data", str(data)),
            *("--measurement-interval", str(round(window_s * 1000)), "--stability-percentage", str(_ANY_STABILITY)),
            *("--percentile", "95", "--verbose-csv", "-f", str(result), "--shared-memory", shared_memory),
            *(("--output-shared-memory-size", str(output_bytes)) if shared_memory != "none" else ()),
            *(("--ssl-grpc-use-ssl",) if address.tls and address.protocol == "grpc" else ()),
        ]
        if address.tls and address.protocol == "http":
            arguments[arguments.index("-u") + 1] = f"https://{address.host_port}"
        command = [part.replace("{folder}", str(data.parent)) for part in self.command]
        done = subprocess.run(
            [*command, *arguments], env=os.environ | self.environment, capture_output=True, text=True, check=False
        )
        if done.returncode or not result.is_file():
            raise BenchError(
                f"perf_analyzer could not measure {model} at {load.kind} {load}: {_reason(done.stdout + done.stderr)}"
            )
        return _read(result)


def find(path: str | None = None) -> Analyzer:
    """The perf_analyzer that was named, or the first that starts.

    Looks on PATH, beside this Python (the tritonclient 2.51 wheel brings it) and for NVIDIA's SDK image in Docker.

    Args:
        path: of the binary, or "container".

    Raises:
        BenchError: if none starts; says what each lacks and how to get it.
    """
    places = [path] if path else [shutil.which("perf_analyzer"), str(Path(sys.executable).parent / "perf_analyzer")]
    problems = []
    for place in dict.fromkeys(place for place in places if place and place != "container"):
        environment = {"LD_LIBRARY_PATH": os.pathsep.join(_library_folders())}
        try:
            return Analyzer((place,), environment, _version([place], environment))
        except BenchError as error:
            problems.append(f"{place}: {error}")
    if path in (None, "container"):
        try:
            return _in_container()
        except BenchError as error:
            problems.append(f"container: {error}")
    raise BenchError(
        "perf_analyzer is needed and cannot be started. Install it with pip install 'nas-triton[bench]' and "
        f"apt install libb64-0d, or docker pull {SDK_IMAGE}. What was tried:\n  " + "\n  ".join(problems)
    )


def write_data(path: Path, samples: Sequence[Mapping[str, NDArray[Any]]]) -> None:
    """Input for perf_analyzer: requests that are sent in turn.

    Args:
        path: JSON file to write.
        samples: tensors by name, without the batch dimension; object arrays of bytes for BYTES.
    """

    def content(array: NDArray[Any]) -> bytes:
        if array.dtype == np.object_:  # each element after its length
            return b"".join(struct.pack("<I", len(element)) + element for element in array.ravel())
        return np.ascontiguousarray(array).tobytes()

    requests = [
        {
            name: {"content": {"b64": base64.b64encode(content(array)).decode()}, "shape": list(array.shape)}
            for name, array in sample.items()
        }
        for sample in samples
    ]
    path.write_text(json.dumps({"data": requests}))


def _version(command: Sequence[str], environment: Mapping[str, str]) -> str:
    try:
        done = subprocess.run(
            [*command, "--version"], env=os.environ | environment, capture_output=True, text=True, check=False
        )
    except OSError as error:
        raise BenchError(str(error.strerror)) from None
    found = re.search(r"Version ([\d.]+)", done.stdout + done.stderr)
    if found:
        return found[1]
    missing = re.search(r"loading shared libraries: (\S+):", done.stderr)
    if missing:
        raise BenchError(f"needs {missing[1]}: {_LIBRARIES.get(missing[1], 'install the library it is in')}")
    raise BenchError(_reason(done.stdout + done.stderr))


def _library_folders() -> list[str]:
    """Where libcudart of the PyPI package is, then what is set already."""
    folders = []
    if importlib.util.find_spec("nvidia") and (spec := importlib.util.find_spec("nvidia.cuda_runtime")):
        folders = [str(Path(place) / "lib") for place in spec.submodule_search_locations or ()]
    return folders + [folder for folder in os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep) if folder]


def _in_container() -> Analyzer:
    docker = shutil.which("docker")
    if docker is None:
        raise BenchError("there is no docker command")
    try:
        subprocess.run([docker, "image", "inspect", SDK_IMAGE], capture_output=True, check=True)
    except subprocess.CalledProcessError:
        raise BenchError(f"the image {SDK_IMAGE} is not here; docker pull it") from None
    user = f"{os.getuid()}:{os.getgid()}"
    start = (docker, "run", "--rm", "--network=host", "--ipc=host", f"--user={user}")
    version = _version([*start, SDK_IMAGE, "perf_analyzer"], {})
    return Analyzer((*start, "--volume={folder}:{folder}", SDK_IMAGE, "perf_analyzer"), {}, version)


def _reason(text: str) -> str:
    """The line that says what is wrong."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    telling = [line for line in lines if re.search("error|fail|unable|cannot|not ", line, re.IGNORECASE)]
    return (telling or lines or ["it said nothing"])[-1]


def _read(path: Path) -> Measured:
    with path.open(newline="") as file:
        row = next(csv.DictReader(file))

    def milliseconds(column: str) -> float:
        return float(row[column]) / 1000

    return Measured(
        float(row["Inferences/Second"]),
        sum(milliseconds(column) for column in row if column.startswith(("Client ", "Network", "Server "))),
        milliseconds("p50 latency"),
        milliseconds("p95 latency"),
        milliseconds("p99 latency"),
    )
