"""One build: checkpoint -> network -> ONNX -> check -> TensorRT plan, if asked for -> model repository."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nas_ensembles
import nas_eval
from nas_ensembles import contract, integrity, known_answer
from nas_ensembles.known_answer import KnownAnswer
from nas_eval import datasets
from nas_eval.coco import COCO_NAMES
from nas_eval.datasets import Dataset

from .errors import BuildError
from .int8 import calibration_data
from .int8.schemes import SCHEMES
from .progress import Clock
from .repository import install
from .repository.configs import ServedModel
from .targets.tensorrt import plan
from .yolo_nas import processing, weights
from .yolo_nas.variants import CalibrationMethod, Precision, Target, Variant
from .yolo_nas.weights import Progress

if TYPE_CHECKING:
    import onnx

    from .graph.export import Engine
    from .int8.quantize import Quantized
    from .yolo_nas.checkpoint import Checkpoint

_CHECK_PICTURES = 8
_LIBRARIES = ("nas-triton", "torch", "onnx", "onnxscript", "openvino", "numpy", "opencv-python-headless")
# What the OpenVINO backend compiles with. Its default on some CPUs is bfloat16: faster, but not what `check` compared.
_OPENVINO_PARAMETERS = {"INFERENCE_PRECISION_HINT": "f32"}
# On a CPU preprocessing and engine share the cores, and a larger batch is no faster per picture. On a GPU the engine is
# quicker than one preprocessing, and worth waiting a moment for a fuller batch.
_PREPROCESS_INSTANCES: dict[Target, int] = {"openvino": 1, "tensorrt": 2}
_QUEUE_DELAY_US: dict[Target, int] = {"openvino": 0, "tensorrt": 500}


@dataclass(frozen=True)
class Options:
    """What to build. Defaults are the CLI's.

    Attributes:
        weights: "coco", "demo", or a path ({variant} in it stands for the variant's letter).
        variant: None takes the one recognised in the checkpoint.
        calibration: pictures for int8: a folder, or a data set YAML whose training split calibrates and whose
            validation split measures; None takes the bundled samples.
        calibration_pictures: at most this many of them, evenly spread.
        calibration_method: how int8 ranges are chosen, see `quantize.Settings`.
        validation: labelled data that int8's loss is measured on, data set YAML or COCO instances JSON; None takes
            `calibration`'s validation split, or holds pictures out and takes what float32 finds in them for the truth.
        validation_images: folder of the JSON's pictures.
        validation_pictures: at most this many of them, evenly spread.
        int8_budget: most mAP points that int8 may lose; convolutions that hurt most stay fp16. None: all are int8.
        class_names: file with one name per line; None takes the checkpoint's.
        processing: "checkpoint" compiles the checkpoint's processing_params; "coco" ignores them.
        force: build even if the same inputs are installed.
        instances: of the engine, on each GPU.
        queue_delay_us: the engine waits so long for a batch to fill; None takes the target's.
        plan_options: what TensorRT is told.
        opt_batch_size: TensorRT chooses its kernels for batches of this size; None takes the largest.
        server: Triton release or image that will load the plan.
        sign: private key, see `integrity.sign`; None leaves the model unsigned.
    """

    weights: str = "coco"
    variant: Variant | None = None
    precision: Precision = "fp16"
    target: Target = "openvino"
    name: str | None = None
    model_repository: Path = Path("model_repository")
    calibration: Path | None = None
    calibration_pictures: int = 64
    calibration_method: CalibrationMethod = "auto"
    validation: Path | None = None
    validation_images: Path | None = None
    validation_pictures: int = 256
    int8_budget: float | None = None
    max_batch_size: int = contract.DEFAULT_MAX_BATCH_SIZE
    max_pixels: int = contract.DEFAULT_MAX_PIXELS
    class_names: Path | None = None
    processing: str = "checkpoint"
    force: bool = False
    instances: int = 1
    queue_delay_us: int | None = None
    plan_options: plan.PlanOptions = plan.PlanOptions()
    opt_batch_size: int | None = None
    server: str = plan.DEFAULT_SERVER
    sign: Path | None = None


@dataclass(frozen=True)
class Result:
    """What a build did.

    Attributes:
        name: of the served model.
        version: in the model repository.
        built: False if the same inputs were installed already.
        manifest: as installed: the same, byte for byte, on whatever machine it is built.
        machine: what this machine made of the model: `cpu` and `agreement` of its engine with the graph, for the target
            openvino; `latency_ratio` if there was a budget to meet.
        seconds: per step, empty if nothing was built.
    """

    name: str
    version: int
    built: bool
    manifest: dict[str, Any]
    machine: dict[str, Any]
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass
class Reporter:
    """How a build speaks; the CLI prints, tests listen."""

    progress: Progress = lambda *_: None
    warn: Callable[[str], None] = lambda _: None
    log: plan.Log = lambda *_: None


def build(options: Options, reporter: Reporter | None = None, plan_builder: plan.PlanBuilder | None = None) -> Result:
    """Build one model into the model repository, or find that it is there.

    Args:
        options: what to build.
        reporter: how to speak.
        plan_builder: for the target `tensorrt`; None takes the first way that works here.

    Raises:
        BuildError: nothing was installed; the message says why and what to do.
    """
    report = reporter or Reporter()
    if options.target == "tensorrt":
        plan_builder = plan_builder or plan.find(options.server, None, options.plan_options.version_compatible)
    checkpoint_path = weights.resolve(options.weights, options.variant, report.warn, report.progress)
    paths = calibration_data.find(options.calibration, options.calibration_pictures)
    labelled = None
    if options.precision == "int8":
        labelled = calibration_data.labelled(
            options.calibration, options.validation, options.validation_images, options.validation_pictures
        )
    inputs = _inputs(options, checkpoint_path, paths, labelled)
    if plan_builder:
        inputs["plan"] = {
            **plan_builder.identity(),
            **asdict(options.plan_options),
            "opt_batch_size": options.opt_batch_size or options.max_batch_size,
        }
    loaded = None
    if options.variant is None:
        loaded = _load(checkpoint_path)
    name = options.name or contract.model_name(options.variant or loaded.variant, options.precision)  # type: ignore[union-attr]
    inputs["name"] = name
    if options.sign is not None:
        _check_key(options.sign)
    if not options.force:
        manifest = install.read_manifest(options.model_repository, name)
        if manifest and manifest["inputs"] == inputs:
            machine = install.read_machine(options.model_repository, name)
            _sign(options, name)
            return Result(name, manifest["version"], False, manifest, machine)
    install.check_writable(options.model_repository)
    return _build(options, report, name, inputs, loaded or _load(checkpoint_path), paths, labelled, plan_builder)


def _check_key(path: Path) -> None:
    """That it can be read, before the work."""
    try:
        path.read_bytes()
    except OSError as error:
        raise BuildError(f"{path}: the key cannot be read: {error.strerror}") from None


def _sign(options: Options, name: str) -> None:
    if options.sign is not None:
        try:
            integrity.sign(options.model_repository, name, options.sign)
        except integrity.IntegrityError as error:
            raise BuildError(f"{error}. It is installed without a signature.") from None


def _load(path: Path) -> Checkpoint:
    from .yolo_nas import checkpoint

    return checkpoint.load(path)


def _build(
    options: Options,
    report: Reporter,
    name: str,
    inputs: dict[str, Any],
    loaded: Checkpoint,
    paths: list[Path],
    labelled: Dataset | None,
    plan_builder: plan.PlanBuilder | None,
) -> Result:
    import torch

    from .graph import check, exact, export

    if options.variant not in (None, loaded.variant):
        raise BuildError(
            f"{loaded.path}: holds YOLO-NAS {loaded.variant.upper()}, not {str(options.variant).upper()}. "
            f"Build it with --variant {loaded.variant}."
        )
    clock = Clock(report.progress)
    paths = calibration_data.readable(paths, report.warn)
    class_names = _class_names(options, loaded, report)
    compiled = _processing(options, loaded, report)
    network = loaded.network()
    reference = export.Engine(network, compiled, torch.float64)

    with clock.step("export"):
        model = export.export(export.Engine(network, compiled), compiled.letterbox.size_hw, name)
    measured: dict[str, Any] = {}
    machine: dict[str, Any] = {}
    limits = check.FP16_LIMITS
    if options.precision == "int8":
        float32 = export.Engine(network, compiled, torch.float32)
        quantized = _quantize(options, report, clock, model, reference, float32, compiled, class_names, paths, labelled)
        model, machine = quantized.graph, quantized.machine
        measured = {"int8": quantized.report, "layers": quantized.layers}
        limits = check.INT8_LIMITS[quantized.report["activations"]]
    chosen = calibration_data.spread(paths, _CHECK_PICTURES)
    graph = exact.Exact(model)
    with clock.step("check", len(chosen)):
        canvases = calibration_data.canvases(chosen, compiled.letterbox, clock.advance)
        agreement = check.compare(graph, reference, canvases)
        check.require(agreement, limits, name)
    measured["agreement"] = asdict(agreement)
    known = check.ask(graph, compiled.letterbox)
    if options.target == "openvino":
        with clock.step("engine"):
            machine |= _ask_engine(model, known, name, report)

    engine_file = model.SerializeToString(deterministic=True)
    facts: dict[str, Any] = {}
    if plan_builder:
        with clock.step("plan"):
            built = plan_builder.build(
                contract.stage_name(name, "engine"),
                engine_file,
                _profile(model, options),
                options.plan_options,
                report.progress,
                report.log,
            )
        engine_file, facts = built.data, {contract.PLAN: built.facts()}

    with clock.step("install"):
        served = ServedModel(
            name=name,
            letterbox=compiled.letterbox,
            candidates=model.graph.output[0].type.tensor_type.shape.dim[1].dim_value,
            max_batch_size=options.max_batch_size,
            max_pixels=options.max_pixels,
            thresholds=compiled.thresholds,
            parameters={
                contract.CLASS_NAMES: class_names,
                contract.VARIANT: loaded.variant,
                contract.PRECISION: options.precision,
                contract.TARGET: options.target,
                contract.CHECKPOINT_SHA256: loaded.sha256,
                contract.BUILD_VERSIONS: inputs["versions"],
                **facts,
            },
            engine_parameters=_OPENVINO_PARAMETERS if options.target == "openvino" else {},
            target=options.target,
            engine_instances=options.instances,
            preprocess_instances=_PREPROCESS_INSTANCES[options.target],
            queue_delay_us=_queue_delay_us(options),
        )
        manifest = {"inputs": inputs, "processing": asdict(compiled), **measured, **facts}
        version = install.install(options.model_repository, served, engine_file, known, manifest, machine)
    installed = install.read_manifest(options.model_repository, name)
    if installed is None:
        raise BuildError(f"{options.model_repository}: {name} was installed but cannot be read back.")
    _sign(options, name)
    return Result(name, version, True, installed, machine, clock.seconds)


def _quantize(
    options: Options,
    report: Reporter,
    clock: Clock,
    model: onnx.ModelProto,
    reference: Engine,
    float32: Engine,
    compiled: processing.Processing,
    class_names: list[str],
    paths: list[Path],
    labelled: Dataset | None,
) -> Quantized:
    """The int8 graph and what is known of it."""
    from .int8 import quantize

    if options.calibration is None:
        report.warn(
            "calibrating on the bundled samples: enough to try int8, too few to trust it. "
            "Give a hundred pictures like those it will see: --calibration DIR."
        )
    elif len(paths) < calibration_data.FEW and not labelled:
        report.warn(f"{len(paths)} pictures are too few to hold some out: int8's loss is measured on the same ones.")
    calibration, measuring = (paths, paths) if labelled else calibration_data.hold_out(paths)
    held_out = labelled or datasets.unlabelled("held-out pictures", measuring, class_names)
    settings = quantize.Settings(
        calibration, held_out, SCHEMES[options.target], options.calibration_method, options.int8_budget
    )
    return quantize.quantize(model, reference, float32, compiled, class_names, settings, clock, report.warn)


def _ask_engine(model: onnx.ModelProto, known: KnownAnswer, name: str, report: Reporter) -> dict[str, Any]:
    """Whether this machine's engine computes the graph; it need not, since others may serve it."""
    from .graph.openvino_runner import Compiled

    engine = Compiled(model)
    agreement = known.agreement(*engine(known.canvas).candidates)
    if agreement < known_answer.LIMIT:
        report.warn(
            f"{name}: OpenVINO on this CPU ({engine.cpu}) computes something else than the graph: agreement "
            f"{agreement:.2f}, expected at least {known_answer.LIMIT:g}. The graph is good and was installed. Served "
            "here, it takes the exact path, which is about as slow as fp16; `nas-client check` shows which."
        )
    return {"cpu": engine.cpu, "agreement": round(agreement, 4)}


def _profile(model: onnx.ModelProto, options: Options) -> plan.Profile:
    """Of the exported graph's one input."""
    (tensor,) = model.graph.input
    _, *dims = (dim.dim_value for dim in tensor.type.tensor_type.shape.dim)
    opt = options.opt_batch_size or options.max_batch_size
    return plan.Profile(tensor.name, tuple(dims), options.max_batch_size, opt)


def _queue_delay_us(options: Options) -> int:
    return _QUEUE_DELAY_US[options.target] if options.queue_delay_us is None else options.queue_delay_us


def _inputs(options: Options, checkpoint_path: Path, paths: list[Path], labelled: Dataset | None) -> dict[str, Any]:
    """All that decides what the build writes: equal inputs, equal files."""
    names = options.class_names
    int8 = options.precision == "int8"
    return {
        "checkpoint": checkpoint_path.name,
        "checkpoint_sha256": weights.file_sha256(checkpoint_path),
        "precision": options.precision,
        "calibration_method": options.calibration_method if int8 else None,
        "int8_budget": options.int8_budget if int8 else None,
        "target": options.target,
        "processing": options.processing,
        "max_batch_size": options.max_batch_size,
        "max_pixels": options.max_pixels,
        "instances": options.instances,
        "queue_delay_us": _queue_delay_us(options),
        "class_names_sha256": weights.file_sha256(names) if names and names.is_file() else None,
        "pictures": _hashes(paths),
        "validation": _hashes([picture.path for picture in labelled.pictures]) if labelled else None,
        "truth_sha256": _sha256(labelled.truth) if labelled else None,
        "versions": {library: metadata.version(library) for library in _LIBRARIES},
        "sources_sha256": _sources_sha256(),
    }


def _hashes(paths: list[Path]) -> dict[str, str]:
    return {f"{path.parent.name}/{path.name}": weights.file_sha256(path) for path in paths}


def _sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _sources_sha256() -> str:
    """Of the code that builds: a changed exporter makes other files."""
    digest = hashlib.sha256()
    for package in (__file__, nas_ensembles.__file__, nas_eval.__file__):
        for path in sorted(Path(package).parent.rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _class_names(options: Options, loaded: Checkpoint, report: Reporter) -> list[str]:
    if options.class_names:
        try:
            lines = options.class_names.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise BuildError(f"{options.class_names}: cannot read class names, one per line: {error}") from None
        names = [line.strip() for line in lines if line.strip()]
        if len(names) != loaded.num_classes:
            raise BuildError(
                f"{options.class_names}: {len(names)} names; the network has {loaded.num_classes} classes."
            )
        return names
    if loaded.class_names:
        return list(loaded.class_names)
    if loaded.num_classes == len(COCO_NAMES):
        if options.weights != "coco":
            report.warn(f"{loaded.path.name} names no classes; it has 80, so COCO's names are taken (--class-names).")
        return list(COCO_NAMES)
    report.warn(f"{loaded.path.name} names no classes; they are called class_0, class_1, ... (--class-names FILE).")
    return [f"class_{i}" for i in range(loaded.num_classes)]


def _processing(options: Options, loaded: Checkpoint, report: Reporter) -> processing.Processing:
    if options.processing == "coco":
        return processing.COCO
    if loaded.processing_params and loaded.processing_params.get("image_processor"):
        return processing.compile_processing(loaded.processing_params)
    if options.weights not in ("coco", "demo"):
        report.warn(f"{loaded.path.name} holds no processing_params: COCO's preprocessing is taken.")
    return processing.COCO
