"""One build, step by step: checkpoint -> network -> ONNX -> int8 -> check -> engine file -> model repository."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas_ensembles import contract, integrity
from nas_eval.dataset import unlabelled

from . import targets
from .errors import BuildError
from .graph.doubts import doubts
from .inputs import build_key, calibration_data
from .options import Options
from .progress import SILENT, BuildProgress
from .repository import install
from .repository.configs import ServedModel
from .targets import EngineGraph, Target
from .yolo_nas import weights

if TYPE_CHECKING:
    from .yolo_nas.checkpoint import Checkpoint

_CHECK_PICTURES = 8


@dataclass(frozen=True)
class Result:
    """What a build did.

    Attributes:
        name: of the served model.
        version: in the model repository.
        built: False if the same inputs were installed already.
        manifest: as installed: the same, byte for byte, on whatever machine it is built.
        machine: what this machine made of the model: what the target says of it, `cpu` and `agreement` of the engine
            with the graph for openvino; `latency_ratio` if convolutions were kept in half precision for a budget.
        seconds: per step, empty if nothing was built.
    """

    name: str
    version: int
    built: bool
    manifest: dict[str, Any]
    machine: dict[str, Any]
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def doubts(self) -> list[str]:
        """Why the model may be of no use though its graph is right: see `graph.doubts`."""
        return [doubt.message for doubt in doubts(self.manifest)]


def build(options: Options, progress: BuildProgress | None = None, target: Target | None = None) -> Result:
    """Build one model into the model repository, or find that it is there.

    Args:
        options: what to build.
        progress: of this one build; None is silent.
        target: that builds the engine file, if it was found before; None finds the options'.

    Raises:
        BuildError: nothing was installed; the message says why and what to do.
        DatasetError: likewise, of labelled pictures.
    """
    progress = progress or BuildProgress()
    this = _Build(options, progress, target or targets.find(options, progress.warn))
    if options.sign is not None:
        _require_readable(options.sign)
    result = None if options.force else this.up_to_date()
    if result is None:
        install.check_writable(options.model_repository)
        result = this.run()
    if options.sign is not None:
        _sign(options.model_repository, result.name, options.sign)
    return result


class _Build:
    """The state of one build: what goes in, then what each step leaves for the next.

    Args:
        options: what to build.
        progress: of this build.
        target: that builds the engine file.
    """

    def __init__(self, options: Options, progress: BuildProgress, target: Target) -> None:
        self.options, self.progress, self.target = options, progress, target
        self.file = weights.resolve(weights.WeightsRequest(options.weights, options.variant, options.sha256), progress)
        self.pictures = calibration_data.find(options.int8, progress)
        self.labelled = calibration_data.labelled(options.int8, progress) if options.precision == "int8" else None
        self.name = options.name or contract.model_name(options.variant or self.checkpoint.variant, options.precision)
        self.queue_delay_us = _or(options.queue_delay_us, target.queue_delay_us)
        self.instances = _or(options.instances, target.engine_instances)
        self.key = build_key.collect(options, self.file, self.pictures, self.labelled)
        self.key |= {"name": self.name, "queue_delay_us": self.queue_delay_us, "instances": self.instances}
        self.key |= {"target": target.name, "engine": target.key()}
        self.measured: dict[str, Any] = {}
        self.machine: dict[str, Any] = {}

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """Read when it is needed: an up-to-date build whose variant is given needs it not."""
        from .yolo_nas import checkpoint

        return checkpoint.load(self.file)

    def up_to_date(self) -> Result | None:
        """What is installed, if it was built of the same."""
        manifest = install.read_manifest(self.options.model_repository, self.name)
        if manifest is None or manifest["inputs"] != self.key:
            return None
        machine = install.read_machine(self.options.model_repository, self.name)
        return Result(self.name, manifest["version"], False, manifest, machine)

    def run(self) -> Result:
        """All steps."""
        from .graph import check

        self.limits = check.FP16_LIMITS
        self.pictures = calibration_data.readable(self.pictures, self.progress)
        self.export()
        if self.options.precision == "int8":
            self.quantize()
        self.check()
        self.make_engine()
        version = self.install()
        manifest = install.read_manifest(self.options.model_repository, self.name)
        if manifest is None:
            raise BuildError(f"{self.options.model_repository}: {self.name} was installed but cannot be read back.")
        return Result(self.name, version, True, manifest, self.machine, self.progress.seconds)

    def export(self) -> None:
        """Leaves `exported` and `graph`."""
        from .graph.export import Exported
        from .yolo_nas import defaults

        loaded, options = self.checkpoint, self.options
        if options.variant not in (None, loaded.variant):
            raise BuildError(
                f"{loaded.path}: holds YOLO-NAS {loaded.variant.upper()}, not {str(options.variant).upper()}.",
                options=(f"variant={loaded.variant}",),
            )
        # The official weights and the demo's are COCO's; nobody needs to be told.
        progress = SILENT if options.weights in ("coco", "demo") else self.progress
        self.class_names = defaults.class_names(loaded, options.class_names, progress)
        self.processing = defaults.processing_of(loaded, options.processing, progress)
        with self.progress.step("export"):
            self.exported = Exported.of(loaded.network(), self.processing, self.class_names, self.name)
        self.graph = self.exported.graph

    def quantize(self) -> None:
        """Leaves another `graph`, other `limits`, and what was measured."""
        from .int8 import quantize

        if self.options.int8.calibration is None:
            self.progress.warn(
                "calibrating on the bundled samples: enough to try int8, too few to trust it. "
                "Give a hundred pictures like those it will see.",
                options=("int8.calibration",),
            )
        elif len(self.pictures) < calibration_data.FEW and not self.labelled:
            self.progress.warn(
                f"{len(self.pictures)} pictures are too few to hold some out: int8's loss is measured on the same ones."
            )
        calibrating, measured_on = (
            {digest for _, digest in self.key[what] or () if digest} for what in ("pictures", "validation")
        )
        if in_both := calibrating & measured_on:
            self.progress.warn(
                f"{len(in_both)} of the pictures that int8's loss is measured on calibrate it, too: it may be larger.",
                options=("int8.validation",),
            )
        calibration, measuring = (self.pictures, []) if self.labelled else calibration_data.hold_out(self.pictures)
        held_out = self.labelled or unlabelled("held-out pictures", measuring, self.class_names)
        scheme, int8 = self.target.scheme, self.options.int8
        settings = quantize.Settings(calibration, held_out, scheme, int8.calibration_method, int8.budget)
        quantized = quantize.quantize(self.exported, settings, self.progress)
        self.graph, self.limits = quantized.graph, quantized.limits
        self.measured |= {"int8": quantized.report, "layers": quantized.layers}
        self.machine |= quantized.machine

    def check(self) -> None:
        """The graph against PyTorch; leaves the `known` answer."""
        from .graph import check, exact

        graph = exact.Exact(self.graph)
        chosen = calibration_data.spread(self.pictures, _CHECK_PICTURES)
        with self.progress.step("check", len(chosen)):
            canvases = self.progress.over(calibration_data.canvases(chosen, self.processing.letterbox))
            agreement = check.compare(graph, self.exported.reference, canvases)
            check.require(agreement, self.limits, self.name)
        self.measured["agreement"] = asdict(agreement)
        for doubt in doubts(self.measured):
            self.progress.warn(f"{self.name}: {doubt.message}", options=doubt.options)
        self.known = check.ask(graph, self.processing.letterbox)

    def make_engine(self) -> None:
        """Leaves the `engine_file`."""
        graph = EngineGraph(contract.stage_name(self.name, "engine"), self.graph, self.known)
        self.engine_file = self.target.build(graph, self.progress)
        self.machine |= self.engine_file.machine

    def install(self) -> int:
        """Into the model repository; returns the version."""
        options, target = self.options, self.target
        facts = {contract.PLAN: self.engine_file.facts} if self.engine_file.facts else {}
        with self.progress.step("install"):
            served = ServedModel(
                name=self.name,
                letterbox=self.processing.letterbox,
                candidates=self.graph.graph.output[0].type.tensor_type.shape.dim[1].dim_value,
                max_batch_size=options.max_batch_size,
                max_pixels=options.max_pixels,
                scaled_decoding=options.scaled_decoding,
                thresholds=self.processing.thresholds,
                parameters={
                    contract.CLASS_NAMES: self.class_names,
                    contract.VARIANT: self.checkpoint.variant,
                    contract.PRECISION: options.precision,
                    contract.TARGET: target.name,
                    contract.CHECKPOINT_SHA256: self.key["checkpoint_sha256"],
                    contract.BUILD_VERSIONS: self.key["versions"],
                    **facts,
                },
                target=target,
                engine_instances=self.instances,
                queue_delay_us=self.queue_delay_us,
            )
            processing = asdict(self.processing)
            manifest = {"inputs": self.key, "processing": processing, **self.measured, **facts}
            repository = options.model_repository
            return install.install(repository, served, self.engine_file.data, self.known, manifest, self.machine)


def _or(asked: int | None, usual: int) -> int:
    return usual if asked is None else asked


def _require_readable(key: Path) -> None:
    """Before the work."""
    try:
        key.read_bytes()
    except OSError as error:
        raise BuildError(f"{key}: the key cannot be read: {error.strerror}", options=("sign",)) from None


def _sign(repository: Path, name: str, key: Path) -> None:
    try:
        integrity.sign(repository, name, key)
    except integrity.IntegrityError as error:
        raise BuildError(f"{error}. It is installed without a signature.") from None
