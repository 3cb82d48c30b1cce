"""TensorRT plans: what they are built with, and for which server.

A plan runs on the TensorRT release and the kind of GPU it was built with. Three ways build one: the `tensorrt`
package in this process (`plan_tensorrt`), and `trtexec` on this machine or inside the server's own image through
Docker (`plan_trtexec`). All take the exported graph as it is: its types say what runs in int8, so there is no
precision flag and no calibrator.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, get_args

from nas_eval.downloads import Progress, cache_folder

from ...errors import PlanError

Way = Literal["tensorrt", "trtexec", "docker"]
WAYS: tuple[Way, ...] = get_args(Way)
Log = Callable[[str, str], None]  # level ("error", "warning", "info", "verbose"), line

IMAGE = "nvcr.io/nvidia/tritonserver"
# The server that compose.yaml starts; inside a server's image, that server.
DEFAULT_SERVER = os.environ.get("NVIDIA_TRITON_SERVER_VERSION") or "26.08"
SECURITY_FLOOR = "26.05"  # earlier servers have known remote code execution
# Triton's release notes: container -> TensorRT.
_TENSORRT = {
    "24.10": "10.5",
    "25.12": "10.14",
    "26.03": "10.16",
    "26.05": "10.16.1",
    "26.06": "11.0",
    "26.08": "11.2.1",
}


class Gpu(NamedTuple):
    """Name as nvidia-smi prints it, compute capability such as "8.9"."""

    name: str
    compute_capability: str


@dataclass(frozen=True)
class Profile:
    """Input shapes of the engine: one dynamic batch dimension.

    Attributes:
        tensor: name of the input.
        dims: (C, H, W).
        max_batch_size: the smallest is 1.
        opt_batch_size: the size kernels are chosen for.
    """

    tensor: str
    dims: tuple[int, int, int]
    max_batch_size: int
    opt_batch_size: int

    def shapes(self) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """Smallest, tuned-for and largest shape, batch first."""
        return tuple((batch, *self.dims) for batch in (1, self.opt_batch_size, self.max_batch_size))  # type: ignore[return-value]


@dataclass(frozen=True)
class PlanOptions:
    """What a user may choose. Defaults are TensorRT's.

    Attributes:
        optimization_level: 0 to 5, how long TensorRT looks for fast kernels.
        workspace_mib: most memory a kernel may use; None for all of the GPU's.
        hardware_compatible: run on Ampere and newer GPUs, not only on the building one.
        version_compatible: run on later TensorRT releases of the same major version.
    """

    optimization_level: int = 3
    workspace_mib: int | None = None
    hardware_compatible: bool = False
    version_compatible: bool = False


@dataclass(frozen=True)
class Plan:
    """A built plan and where it comes from.

    Attributes:
        data: bytes of model.plan.
        tensorrt_version: that built it, and that a server must have.
        gpu: that built it.
        built_with: the way.
        built_at: UTC, ISO 8601.
        seconds: the build took.
    """

    data: bytes = field(repr=False)
    tensorrt_version: str
    gpu: Gpu
    built_with: Way
    seconds: float
    options: PlanOptions
    built_at: str = field(default_factory=lambda: datetime.now(timezone.utc).isoformat(timespec="seconds"))

    def facts(self) -> dict[str, Any]:
        """Everything but the bytes, for the manifest and the served model's parameters."""
        return {
            "tensorrt_version": self.tensorrt_version,
            "gpu": self.gpu.name,
            "compute_capability": self.gpu.compute_capability,
            "built_with": self.built_with,
            "built_at": self.built_at,
            "build_seconds": round(self.seconds, 1),
            **asdict(self.options),
        }


class PlanBuilder(Protocol):
    """One of the ways to build plans, found to work on this machine."""

    def identity(self) -> dict[str, str]:
        """What decides, with the graph and the options, which plan comes out."""

    def build(
        self, name: str, model: bytes, profile: Profile, options: PlanOptions, progress: Progress, log: Log
    ) -> Plan:
        """Build a plan.

        Args:
            name: of the engine, for messages.
            model: serialized ONNX.
            profile: of its input.
            options: of the user.
            progress: told how far the build is.
            log: told what TensorRT says.

        Raises:
            PlanError: if TensorRT refuses the graph or cannot build; names the node where TensorRT does.
        """


def server_image(server: str) -> str:
    """`26.08` and `26.08-py3` are NVIDIA's image of that release; anything with a name in it stands for itself."""
    if re.fullmatch(r"\d\d\.\d\d", server):
        return f"{IMAGE}:{server}-py3"
    return server if ":" in server or "/" in server else f"{IMAGE}:{server}"


def server_tensorrt(server: str) -> str | None:
    """TensorRT release of a server, as far as it is known."""
    match = re.search(r":(\d\d\.\d\d)\b", server_image(server))
    return _TENSORRT.get(match[1]) if match else None


def below_security_floor(server: str) -> bool:
    """Whether NVIDIA's image of that release has known remote code execution."""
    match = re.search(r":(\d\d\.\d\d)\b", server_image(server))
    return bool(match) and match[1] < SECURITY_FLOOR  # type: ignore[index]


def misfit(tensorrt_version: str, server: str, version_compatible: bool) -> str | None:
    """Why a plan of this TensorRT cannot be loaded by the server, or None if it can or nobody knows."""
    expected = server_tensorrt(server)
    if expected is None:
        return None
    wanted = [int(part) for part in expected.split(".")]
    got = [int(part) for part in re.findall(r"\d+", tensorrt_version)]
    if got[: len(wanted)] == wanted:
        return None
    if version_compatible and got[0] == wanted[0] and got[: len(wanted)] < wanted:
        return None
    return f"TensorRT {tensorrt_version} here, but {server_image(server)} has {expected} and would refuse the plan"


def find_gpu() -> Gpu:
    """The GPU that builds and serves here: the first that CUDA_VISIBLE_DEVICES lets through.

    Raises:
        PlanError: if there is none.
    """
    command = ["nvidia-smi", *gpu_query(visible_device())]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except FileNotFoundError:
        raise PlanError("no NVIDIA GPU on this machine (nvidia-smi is not there)") from None
    except subprocess.SubprocessError as error:
        said = str(getattr(error, "stdout", "") or getattr(error, "stderr", "") or error).strip()
        raise PlanError(f"no NVIDIA GPU can be used: nvidia-smi says: {said}") from None
    return parse_gpu(answer.stdout)


def visible_device() -> str:
    """Index or UUID of the first device CUDA may use."""
    return os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0].strip() or "0"


def gpu_query(device: str) -> list[str]:
    """Arguments that make nvidia-smi print what `parse_gpu` reads."""
    return [f"--id={device}", "--query-gpu=name,compute_cap", "--format=csv,noheader"]


def parse_gpu(answer: str) -> Gpu:
    """`NVIDIA L4, 8.9` as nvidia-smi prints it.

    Raises:
        PlanError: if it is something else.
    """
    name, _, capability = (answer.strip().splitlines() or [""])[0].rpartition(", ")
    if not name or not re.fullmatch(r"\d+\.\d+", capability):
        raise PlanError(f"no NVIDIA GPU can be used: nvidia-smi says: {answer.strip() or 'nothing'}")
    return Gpu(name, capability)


def timing_cache_path(gpu: Gpu, tensorrt_version: str) -> Path:
    """Kernel timings measured on a kind of GPU by a TensorRT release; they make the next build quicker."""
    slug = re.sub(r"[^a-z0-9]+", "-", gpu.name.lower()).strip("-")
    name = f"{slug}-sm{gpu.compute_capability.replace('.', '')}-tensorrt{tensorrt_version}.cache"
    return cache_folder() / "timing" / name


def read_timing_cache(path: Path) -> bytes:
    """The kept timings, empty if there are none that can be read."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


def keep_timing_cache(path: Path, data: bytes, log: Log) -> None:
    """Replace the kept timings, whole or not at all. A plan is not lost because its timings cannot be kept."""
    partial = path.with_suffix(f".{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(data)
        partial.replace(path)
    except OSError as error:
        log("warning", f"the next build will not be quicker: {path} cannot be written: {error.strerror}")


def find(server: str = DEFAULT_SERVER, way: Way | None = None, version_compatible: bool = False) -> PlanBuilder:
    """The first way that works here and whose plans the server loads.

    Args:
        server: release (`26.08`) or image that will load the plan.
        way: only this one; None tries all, the ones without a download first.
        version_compatible: whether the plan will be.

    Raises:
        PlanError: says of each way what is missing and how to get it.
    """
    from . import in_process, trtexec

    probes: dict[Way, Callable[[], PlanBuilder]] = {
        "trtexec": lambda: trtexec.Trtexec.local(),
        "tensorrt": lambda: in_process.InProcess.find(),
        "docker": lambda: trtexec.Trtexec.docker(server_image(server)),
    }
    problems = []
    for name, probe in probes.items():
        if way not in (None, name):
            continue
        try:
            builder = probe()
            version = builder.identity().get("tensorrt_version")
            problem = misfit(version, server, version_compatible) if version else None
            if problem is None:
                return builder
        except PlanError as error:
            problem = str(error)
        problems.append(f"{name}: {problem}")
    raise PlanError(
        f"a TensorRT plan for {server_image(server)} cannot be built here.\n  "
        + "\n  ".join(problems)
        + "\n  Or name the server that will load it with --server, or build for the CPU with --target openvino."
    )
