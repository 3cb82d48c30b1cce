"""What a target is: the program that will run the engine, and what it wants of a build."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from tritonclient.grpc import model_config_pb2 as pb

from ..int8.schemes import Scheme
from ..options import Options, key_entries
from ..progress import BuildProgress, Warn

if TYPE_CHECKING:
    import onnx
    from nas_ensembles.known_answer import KnownAnswer

_WAITING_BATCHES = 16  # more requests than this many full batches are refused, not queued
_WAITING_US = 60_000_000  # the longest; a request's own timeout, if it is shorter, holds instead


@dataclass(frozen=True)
class EngineGraph:
    """What an engine file is made of.

    Attributes:
        name: of the engine, for messages.
        model: `images` [B, 3, H, W] uint8 to candidates; an int8 one is quantized by the target's scheme.
        known_answer: a canvas and what the graph answers to it.
    """

    name: str
    model: onnx.ModelProto
    known_answer: KnownAnswer

    def serialized(self) -> bytes:
        """The same graph, the same bytes."""
        return bytes(self.model.SerializeToString(deterministic=True))


@dataclass(frozen=True)
class EngineFile:
    """What a target made of a graph.

    Attributes:
        data: the file's bytes.
        facts: what a server must know of it, for the manifest and the served model's parameters; JSON.
        machine: what depends on the machine that built it, and no file but `machine.json` may say; JSON.
    """

    data: bytes = field(repr=False)
    facts: Mapping[str, Any] = field(default_factory=dict)
    machine: Mapping[str, Any] = field(default_factory=dict)


class Target(ABC):
    """One target, able to build on this machine with these options.

    Args:
        options: of the build. Those of its own are the field that is called like the target: `tensorrt`.

    Attributes:
        name: as `Options.target` has it.
        backend: of Triton, that loads the engine file.
        engine_file: its name in the model repository.
        scheme: how it wants int8.
        engine_parameters: for the backend, in the engine's config.
        preprocess_instances: that run side by side.
        preprocess_core_share: how many of the machine's cores each takes, from 0 (one) to 1 (all).
        engine_instances: that run side by side, on each GPU, if the options do not say.
        queue_delay_us: the engine waits so long for a batch to fill, likewise.
    """

    name: ClassVar[str]
    backend: ClassVar[str]
    engine_file: ClassVar[str]
    scheme: ClassVar[Scheme]
    engine_parameters: ClassVar[Mapping[str, str]] = {}
    preprocess_instances: ClassVar[int] = 1
    preprocess_core_share: ClassVar[float] = 0.125  # the engine computes ten times as long on the same cores
    engine_instances: ClassVar[int] = 1
    queue_delay_us: ClassVar[int] = 0

    def __init__(self, options: Options) -> None:
        self.options = options

    @classmethod
    def find(cls, options: Options, warn: Warn) -> Target:
        """The target, if what builds it is here.

        Raises:
            PlanError: says what is missing and how to get it.
        """
        return cls(options)

    def key(self) -> dict[str, Any]:
        """All that decides, with the graph, which engine file comes out: part of the up-to-date key."""
        own = getattr(self.options, self.name.replace("-", "_"), None)
        return {**({} if own is None else key_entries(own)), **self.built_with()}

    def built_with(self) -> dict[str, Any]:
        """What builds, as far as another one would build another file: versions, GPU."""
        return {}

    @abstractmethod
    def build(self, graph: EngineGraph, progress: BuildProgress) -> EngineFile:
        """Make the engine file, as a step of the build.

        Raises:
            PlanError: if the graph is refused or nothing can be built of it.
        """

    def tune(self, config: pb.ModelConfig) -> None:  # noqa: B027  a target may leave it as it is
        """Change the engine's config: for one instance on the CPU, batched, without a limit of what waits."""

    @abstractmethod
    def serve_hint(self, model_repository: Path) -> str:
        """How to serve it: a command, or what has to be provided."""


def tune_for_gpu(config: pb.ModelConfig) -> None:
    """An instance on every GPU, and a limit of what waits.

    Only there: with a limit Triton hands a model nothing while it is busy, and may wake up half a second late. A CPU
    would lose much by it, and Envoy, which nas-serve and the containers put in front, bounds time and number of what
    waits in any case.
    """
    config.instance_group[0].kind = pb.ModelInstanceGroup.KIND_AUTO
    queue = config.dynamic_batching.default_queue_policy
    queue.max_queue_size = _WAITING_BATCHES * config.max_batch_size
    queue.default_timeout_microseconds = _WAITING_US
    queue.allow_timeout_override = True
