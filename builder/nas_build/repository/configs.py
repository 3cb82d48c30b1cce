"""Render the five configs of a served model through Triton's own protobuf."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from google.protobuf import text_format
from nas_ensembles import contract
from nas_ensembles.letterbox import LetterboxSpec
from tritonclient.grpc import model_config_pb2 as pb

from ..options import TargetName

ENGINE_FILES: dict[TargetName, str] = {"openvino": "model.onnx", "tensorrt": "model.plan"}
_WAITING_BATCHES = 16  # more requests than this many full batches are refused, not queued
_WAITING_US = 60_000_000  # the longest; a request's own timeout, if it is shorter, holds instead
_TYPES = {
    contract.IMAGE: pb.TYPE_STRING,
    contract.FRAME: pb.TYPE_UINT8,
    contract.SCORE_THRESHOLD: pb.TYPE_FP32,
    contract.IOU_THRESHOLD: pb.TYPE_FP32,
    contract.MAX_DETECTIONS: pb.TYPE_INT32,
    contract.IMAGES: pb.TYPE_UINT8,
    contract.GEOMETRY: pb.TYPE_FP32,
    contract.CANDIDATE_BOXES: pb.TYPE_FP32,
    contract.CANDIDATE_SCORES: pb.TYPE_FP32,
    contract.CANDIDATE_LABELS: pb.TYPE_INT32,
    contract.ENGINE_INFO: pb.TYPE_STRING,
    contract.NUM_DETECTIONS: pb.TYPE_INT32,
    contract.BOXES: pb.TYPE_FP32,
    contract.SCORES: pb.TYPE_FP32,
    contract.LABELS: pb.TYPE_INT32,
}
_THRESHOLDS = (contract.SCORE_THRESHOLD, contract.IOU_THRESHOLD, contract.MAX_DETECTIONS)
_OUTPUTS = (contract.NUM_DETECTIONS, contract.BOXES, contract.SCORES, contract.LABELS)
_CANDIDATES = (contract.CANDIDATE_BOXES, contract.CANDIDATE_SCORES, contract.CANDIDATE_LABELS)


@dataclass(frozen=True)
class ServedModel:
    """Everything the configs of one served model are rendered from.

    Attributes:
        name: of the ensemble; the composing models are `NAME_preprocess`, `NAME_engine`, `NAME_postprocess`.
        letterbox: compiled from the checkpoint.
        candidates: K, the rows of the engine's outputs.
        max_batch_size: of all its models.
        max_pixels: larger pictures are refused.
        target: backend of the engine.
        engine_instances, preprocess_instances: run side by side; of the engine, on each GPU.
        queue_delay_us: the engine waits so long for a batch to fill.
        score_threshold, iou_threshold: hold when a request gives none.
        parameters: travel in the ensemble's config, as JSON: class names and provenance.
        engine_parameters: of the engine's backend; OpenVINO properties.
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
    target: TargetName = "openvino"
    engine_instances: int = 1
    preprocess_instances: int = 1
    queue_delay_us: int = 0

    def _dims(self, tensor: str) -> list[int]:
        return {
            contract.FRAME: [-1, -1, 3],
            contract.IMAGES: [3, *self.letterbox.size_hw],
            contract.GEOMETRY: [contract.GEOMETRY_SIZE],
            contract.CANDIDATE_BOXES: [self.candidates, 4],
            contract.CANDIDATE_SCORES: [self.candidates],
            contract.CANDIDATE_LABELS: [self.candidates],
            contract.BOXES: [contract.DETECTIONS, 4],
            contract.SCORES: [contract.DETECTIONS],
            contract.LABELS: [contract.DETECTIONS],
        }.get(tensor, [1])

    def _config(
        self, name: str, inputs: tuple[str, ...], outputs: tuple[str, ...], optional: tuple[str, ...], **fields: Any
    ) -> pb.ModelConfig:
        config = pb.ModelConfig(name=name, max_batch_size=self.max_batch_size, **fields)
        for tensor in inputs:
            config.input.add(
                name=tensor, data_type=_TYPES[tensor], dims=self._dims(tensor), optional=tensor in optional
            )
        for tensor in outputs:
            config.output.add(name=tensor, data_type=_TYPES[tensor], dims=self._dims(tensor))
        return config

    @property
    def names(self) -> list[str]:
        """Of the five models: the composing models, then the ensembles."""
        stages = [contract.stage_name(self.name, stage) for stage in contract.STAGES]
        return [*stages, contract.frames_name(self.name), self.name]

    def configs(self, known_answer: Mapping[str, Any] | None = None) -> dict[str, pb.ModelConfig]:
        """The five configs by model name, in the order of `names`.

        Args:
            known_answer: for clients; the engine's backend reads it from a file beside the engine.
        """
        names = {stage: contract.stage_name(self.name, stage) for stage in contract.STAGES}
        steps = {
            "preprocess": ((contract.IMAGE, contract.FRAME), (contract.IMAGES, contract.GEOMETRY)),
            "engine": ((contract.IMAGES,), _CANDIDATES),
            "postprocess": ((*_CANDIDATES, contract.GEOMETRY, *_THRESHOLDS), _OUTPUTS),
        }
        fields: dict[str, dict[str, Any]] = {
            "preprocess": {"backend": "python"},
            "engine": {"backend": self.target, "default_model_filename": ENGINE_FILES[self.target]},
            "postprocess": {"backend": "python"},
        }
        parameters: dict[str, Mapping[str, Any]] = {
            "preprocess": {contract.LETTERBOX: self.letterbox.to_dict(), contract.MAX_PIXELS: self.max_pixels},
            "engine": {**self.engine_parameters, **({contract.KNOWN_ANSWER: known_answer} if known_answer else {})},
            "postprocess": {
                contract.SCORE_THRESHOLD: self.score_threshold,
                contract.IOU_THRESHOLD: self.iou_threshold,
            },
        }
        instances = {"preprocess": self.preprocess_instances, "engine": self.engine_instances}
        configs = {}
        for stage, (inputs, outputs) in steps.items():
            optional = (contract.IMAGE, contract.FRAME, *_THRESHOLDS)
            config = self._config(names[stage], inputs, outputs, optional, **fields[stage])
            config.instance_group.add(kind=pb.ModelInstanceGroup.KIND_CPU, count=instances.get(stage, 1))
            config.dynamic_batching.SetInParent()
            _set_parameters(config, parameters[stage])
            configs[config.name] = config
        self._tune_engine(configs[names["engine"]])
        for ensemble, picture in ((contract.frames_name(self.name), contract.FRAME), (self.name, contract.IMAGE)):
            given = (picture, *_THRESHOLDS)
            config = self._config(ensemble, given, _OUTPUTS, _THRESHOLDS, platform="ensemble")
            for stage, (inputs, outputs) in steps.items():
                other = {contract.IMAGE, contract.FRAME} - {picture}
                config.ensemble_scheduling.step.add(
                    model_name=names[stage],
                    model_version=-1,
                    input_map={tensor: tensor for tensor in inputs if tensor not in other},
                    output_map={tensor: tensor for tensor in outputs},
                )
            configs[ensemble] = config
        _set_parameters(
            configs[self.name], {**self.parameters, **parameters["postprocess"], **parameters["preprocess"]}
        )
        return configs

    def _tune_engine(self, engine: pb.ModelConfig) -> None:
        engine.dynamic_batching.max_queue_delay_microseconds = self.queue_delay_us
        if self.target == "openvino":
            engine.output.add(name=contract.ENGINE_INFO, data_type=_TYPES[contract.ENGINE_INFO], dims=[1])
        if self.target == "tensorrt":
            engine.instance_group[0].kind = pb.ModelInstanceGroup.KIND_AUTO  # every GPU there is
            # Only here: with a limit Triton hands a model nothing while it is busy, and may wake up half a second late.
            # A CPU would lose much by it, and Envoy, which nas-serve and the containers put in front, bounds time and
            # number of what waits in any case.
            queue = engine.dynamic_batching.default_queue_policy
            queue.max_queue_size = _WAITING_BATCHES * self.max_batch_size
            queue.default_timeout_microseconds = _WAITING_US
            queue.allow_timeout_override = True
            engine.optimization.cuda.graphs = True  # Triton records them for batches of 1 and of the largest size
        for batch_size in sorted({1, self.max_batch_size}):
            warmup = engine.model_warmup.add(name=f"batch of {batch_size}", batch_size=batch_size)
            warmup.inputs[contract.IMAGES].CopyFrom(
                pb.ModelWarmup.Input(
                    data_type=_TYPES[contract.IMAGES], dims=self._dims(contract.IMAGES), random_data=True
                )
            )


def render(config: pb.ModelConfig) -> str:
    """Text of a config.pbtxt; map entries sorted, so that the same config is the same text."""
    return text_format.MessageToString(config, as_utf8=True)  # type: ignore[no-any-return]


def _set_parameters(config: pb.ModelConfig, parameters: Mapping[str, Any]) -> None:
    for key, value in parameters.items():
        config.parameters[key].string_value = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
