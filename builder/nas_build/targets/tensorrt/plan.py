"""What goes into a TensorRT plan, what comes out, and what a way to build one has to do."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, Protocol

from ...options import TensorRTOptions
from ...progress import BuildProgress
from .gpus import Gpu

if TYPE_CHECKING:
    from ..base import EngineGraph


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
class PlanRequest:
    """What a plan is built of. The graph's types say what runs in int8: there is no precision flag, no calibrator.

    Attributes:
        name: of the engine, for messages.
        onnx: the serialized graph.
        profile: of its input.
        options: of the user.
    """

    name: str
    onnx: bytes = field(repr=False)
    profile: Profile
    options: TensorRTOptions = TensorRTOptions()

    @classmethod
    def of(cls, graph: EngineGraph, options: TensorRTOptions, max_batch_size: int) -> PlanRequest:
        """Of a graph with one input; kernels are chosen for the largest batch if the options do not say."""
        (tensor,) = graph.model.graph.input
        _, *dims = (dim.dim_value for dim in tensor.type.tensor_type.shape.dim)
        profile = Profile(tensor.name, tuple(dims), max_batch_size, options.opt_batch_size or max_batch_size)
        return cls(graph.name, graph.serialized(), profile, options)


@dataclass(frozen=True)
class Plan:
    """A built plan and where it comes from.

    Attributes:
        data: bytes of model.plan.
        tensorrt_version: that built it, and that a server must have.
        gpu: that built it.
        built_with: the way: "tensorrt", "trtexec" or "docker".
        seconds: the build took.
        built_at: UTC, ISO 8601.
    """

    data: bytes = field(repr=False)
    tensorrt_version: str
    gpu: Gpu
    built_with: str
    seconds: float
    built_at: str = field(default_factory=lambda: datetime.now(timezone.utc).isoformat(timespec="seconds"))

    def facts(self) -> dict[str, Any]:
        """Everything but the bytes."""
        return {
            "tensorrt_version": self.tensorrt_version,
            "gpu": self.gpu.name,
            "compute_capability": self.gpu.compute_capability,
            "built_with": self.built_with,
            "built_at": self.built_at,
            "build_seconds": round(self.seconds, 1),
        }


class PlanBuilder(Protocol):
    """One of the ways to build plans, found to work on this machine."""

    def identity(self) -> dict[str, str]:
        """What decides, with the request, which plan comes out."""

    def build(self, request: PlanRequest, progress: BuildProgress) -> Plan:
        """Build a plan; progress is told how far it is and what TensorRT says.

        Raises:
            PlanError: if TensorRT refuses the graph or cannot build; names the node where TensorRT does.
        """
