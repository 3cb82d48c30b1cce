"""Render a served model into a Triton model repository, and install it whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nas_ensembles
from google.protobuf import text_format
from nas_ensembles import contract
from nas_ensembles.letterbox import LetterboxSpec
from tritonclient.grpc import model_config_pb2 as pb

from .errors import RepositoryError

CONFIG = "config.pbtxt"
MANIFEST = "manifest.json"
ENGINE_FILE = "model.onnx"
_STAGING_PREFIX = ".nas-build-"
_TYPES = {
    contract.IMAGE: pb.TYPE_STRING,
    contract.SCORE_THRESHOLD: pb.TYPE_FP32,
    contract.IOU_THRESHOLD: pb.TYPE_FP32,
    contract.MAX_DETECTIONS: pb.TYPE_INT32,
    contract.IMAGES: pb.TYPE_UINT8,
    contract.GEOMETRY: pb.TYPE_FP32,
    contract.CANDIDATE_BOXES: pb.TYPE_FP32,
    contract.CANDIDATE_SCORES: pb.TYPE_FP32,
    contract.CANDIDATE_LABELS: pb.TYPE_INT32,
    contract.NUM_DETECTIONS: pb.TYPE_INT32,
    contract.BOXES: pb.TYPE_FP32,
    contract.SCORES: pb.TYPE_FP32,
    contract.LABELS: pb.TYPE_INT32,
}
_OPTIONAL = (contract.SCORE_THRESHOLD, contract.IOU_THRESHOLD, contract.MAX_DETECTIONS)
_OUTPUTS = (contract.NUM_DETECTIONS, contract.BOXES, contract.SCORES, contract.LABELS)
_CANDIDATES = (contract.CANDIDATE_BOXES, contract.CANDIDATE_SCORES, contract.CANDIDATE_LABELS)


@dataclass(frozen=True)
class ServedModel:
    """Everything the configs of one served model are rendered from.

    Attributes:
        name: of the ensemble; the composing models are `NAME_preprocess`, `NAME_engine`, `NAME_postprocess`.
        letterbox: compiled from the checkpoint.
        candidates: K, the rows of the engine's outputs.
        max_batch_size: of all four models.
        max_pixels: larger pictures are refused.
        score_threshold, iou_threshold: hold when a request gives none.
        parameters: travel in the ensemble's config, as JSON: class names and provenance.
        engine_parameters: OpenVINO properties.
    """

    name: str
    letterbox: LetterboxSpec
    candidates: int
    max_batch_size: int
    max_pixels: int
    score_threshold: float
    iou_threshold: float
    parameters: Mapping[str, Any]
    engine_parameters: Mapping[str, str]

    def _dims(self, tensor: str) -> list[int]:
        return {
            contract.IMAGES: [3, *self.letterbox.size_hw],
            contract.GEOMETRY: [contract.GEOMETRY_SIZE],
            contract.CANDIDATE_BOXES: [self.candidates, 4],
            contract.CANDIDATE_SCORES: [self.candidates],
            contract.CANDIDATE_LABELS: [self.candidates],
            contract.BOXES: [contract.DETECTIONS, 4],
            contract.SCORES: [contract.DETECTIONS],
            contract.LABELS: [contract.DETECTIONS],
        }.get(tensor, [1])

    def _config(self, name: str, inputs: tuple[str, ...], outputs: tuple[str, ...], **fields: Any) -> pb.ModelConfig:
        config = pb.ModelConfig(name=name, max_batch_size=self.max_batch_size, **fields)
        for tensor in inputs:
            config.input.add(
                name=tensor, data_type=_TYPES[tensor], dims=self._dims(tensor), optional=tensor in _OPTIONAL
            )
        for tensor in outputs:
            config.output.add(name=tensor, data_type=_TYPES[tensor], dims=self._dims(tensor))
        return config

    def configs(self) -> dict[str, pb.ModelConfig]:
        """The four configs by model name."""
        names = {stage: contract.stage_name(self.name, stage) for stage in contract.STAGES}
        steps = {
            "preprocess": ((contract.IMAGE,), (contract.IMAGES, contract.GEOMETRY)),
            "engine": ((contract.IMAGES,), _CANDIDATES),
            "postprocess": ((*_CANDIDATES, contract.GEOMETRY, *_OPTIONAL), _OUTPUTS),
        }
        fields: dict[str, dict[str, Any]] = {
            "preprocess": {"backend": "python"},
            "engine": {"backend": "openvino", "default_model_filename": ENGINE_FILE},
            "postprocess": {"backend": "python"},
        }
        parameters: dict[str, Mapping[str, Any]] = {
            "preprocess": {contract.LETTERBOX: self.letterbox.to_dict(), contract.MAX_PIXELS: self.max_pixels},
            "engine": self.engine_parameters,
            "postprocess": {
                contract.SCORE_THRESHOLD: self.score_threshold,
                contract.IOU_THRESHOLD: self.iou_threshold,
            },
        }
        configs = {}
        for stage, (inputs, outputs) in steps.items():
            config = self._config(names[stage], inputs, outputs, **fields[stage])
            config.instance_group.add(kind=pb.ModelInstanceGroup.KIND_CPU, count=1)
            config.dynamic_batching.SetInParent()
            _set_parameters(config, parameters[stage])
            configs[config.name] = config
        ensemble = self._config(self.name, (contract.IMAGE, *_OPTIONAL), _OUTPUTS, platform="ensemble")
        for stage, (inputs, outputs) in steps.items():
            ensemble.ensemble_scheduling.step.add(
                model_name=names[stage],
                model_version=-1,
                input_map={tensor: tensor for tensor in inputs},
                output_map={tensor: tensor for tensor in outputs},
            )
        _set_parameters(ensemble, {**self.parameters, **parameters["postprocess"], **parameters["preprocess"]})
        configs[self.name] = ensemble
        return configs


def render(config: pb.ModelConfig) -> str:
    """Text of a config.pbtxt; map entries sorted, so that the same config is the same text."""
    return text_format.MessageToString(config, as_utf8=True)  # type: ignore[no-any-return]


def _set_parameters(config: pb.ModelConfig, parameters: Mapping[str, Any]) -> None:
    for key, value in parameters.items():
        config.parameters[key].string_value = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def versions(repository: Path, name: str) -> list[int]:
    """Installed versions of a model, rising."""
    folder = repository / name
    found = [int(p.name) for p in folder.iterdir() if p.name.isdigit()] if folder.is_dir() else []
    return sorted(found)


def read_manifest(repository: Path, name: str) -> dict[str, Any] | None:
    """Manifest of the newest version, or None if there is none or a file it lists is gone or changed."""
    installed = versions(repository, name)
    if not installed:
        return None
    try:
        text = (repository / name / str(installed[-1]) / MANIFEST).read_text(encoding="utf-8")
        manifest: dict[str, Any] = json.loads(text)
        intact = all(
            hashlib.sha256((repository / path).read_bytes()).hexdigest() == digest
            for path, digest in manifest["files"].items()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return manifest if intact else None


def install(repository: Path, model: ServedModel, engine_file: bytes, manifest: Mapping[str, Any]) -> int:
    """Write the four models beside their older versions.

    Everything is written and synced in a hidden staging folder, then renamed into place: composing models first, the
    ensemble last. On any failure the staging folder is removed and no version folder is left half-written.

    Args:
        repository: made if it is not there.
        model: what to serve.
        engine_file: bytes of model.onnx.
        manifest: what the build knows; the installed files and their SHA-256 are added as "files".

    Returns:
        The version that was installed.

    Raises:
        RepositoryError: if the folder cannot be written.
    """
    with _repository_errors(repository), _staging(repository) as staging:
        configs = model.configs()
        version = 1 + max((v for name in configs for v in versions(repository, name)), default=0)
        folders = {name: staging / name / str(version) for name in configs}
        for name, folder in folders.items():
            folder.mkdir(parents=True)
            _write(staging / name / CONFIG, render(configs[name]).encode())
        for stage in ("preprocess", "postprocess"):
            _write_python_model(stage, folders[contract.stage_name(model.name, stage)])
        _write(folders[contract.stage_name(model.name, "engine")] / ENGINE_FILE, engine_file)
        files = {
            str(path.relative_to(staging)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(staging.rglob("*"))
            if path.is_file()
        }
        text = json.dumps(
            {**manifest, "version": version, "files": files}, indent=2, ensure_ascii=False, sort_keys=True
        )
        _write(folders[model.name] / MANIFEST, text.encode() + b"\n")
        for path in staging.rglob("*"):
            if path.is_dir():
                _sync(path)
        with contextlib.ExitStack() as undo:
            for name in configs:  # the ensemble is the last
                _move_into_place(staging / name, repository / name, str(version), undo)
            _sync(repository)
            undo.pop_all()
    return version


def _move_into_place(source: Path, target: Path, version: str, undo: contextlib.ExitStack) -> None:
    """Rename one model, or one version of it, from the staging folder into the repository."""
    if not target.exists():
        source.rename(target)
        undo.callback(shutil.rmtree, target, ignore_errors=True)
        return
    (source / version).rename(target / version)
    undo.callback(shutil.rmtree, target / version, ignore_errors=True)
    if (target / CONFIG).exists():
        undo.callback(_write, target / CONFIG, (target / CONFIG).read_bytes())
    (source / CONFIG).replace(target / CONFIG)
    _sync(target)


@contextlib.contextmanager
def _staging(repository: Path) -> Iterator[Path]:
    """A hidden folder on the repository's file system (renames need that), removed however the build ends.

    Beside the repository, because Triton takes every folder in it for a model, hidden ones too; inside only if the
    repository is a mount point or its parent cannot be written.
    """
    repository = repository.absolute()
    repository.mkdir(parents=True, exist_ok=True)
    beside = repository.parent.stat().st_dev == repository.stat().st_dev and os.access(repository.parent, os.W_OK)
    base = repository.parent if beside else repository
    for left in base.glob(f"{_STAGING_PREFIX}*"):
        pid = left.name.removeprefix(_STAGING_PREFIX).partition("-")[0]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists():  # of a build that was killed
            shutil.rmtree(left, ignore_errors=True)
    staging = Path(tempfile.mkdtemp(prefix=f"{_STAGING_PREFIX}{os.getpid()}-", dir=base))
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)


@contextlib.contextmanager
def _repository_errors(repository: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise RepositoryError(
            f"{repository}: cannot write the model repository: {reason}. Nothing was installed; free space or fix the "
            "folder's permissions, or name another with --model-repository."
        ) from error


def check_writable(repository: Path) -> None:
    """Fail before the work, not after it.

    Raises:
        RepositoryError: if nothing can be written into the folder.
    """
    with _repository_errors(repository), _staging(repository), tempfile.TemporaryFile(dir=repository):
        pass


def _write_python_model(stage: str, folder: Path) -> None:
    """model.py of a stage and the helpers it imports: the folder needs nothing of ours installed on the server."""
    package = Path(nas_ensembles.__file__).parent
    _write(folder / "model.py", (package / stage / "model.py").read_bytes())
    helpers = folder / package.name
    helpers.mkdir()
    for source in sorted(package.glob("*.py")):
        _write(helpers / source.name, source.read_bytes())


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
