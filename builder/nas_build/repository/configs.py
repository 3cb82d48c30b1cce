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

from ..targets import Target

_BYTES = "STRING"  # what Triton's configs call the protocol's BYTES


@dataclass(frozen=True)
class ServedModel:
    """Everything the configs of one served model are rendered from.

    Attributes:
        name: of the ensemble; the composing models are `NAME_preprocess`, `NAME_engine`, `NAME_postprocess`.
        letterbox: compiled from the checkpoint.
        candidates: K, the rows of the engine's outputs.
        max_batch_size: of all its models.
        max_pixels: larger pictures are refused.
        scaled_decoding: JPEGs that are larger than the canvas are decoded to a part of their size.
        target: of the engine.
        engine_instances: run side by side, on each GPU.
        queue_delay_us: the engine waits so long for a batch to fill.
        thresholds: hold when a request gives none.
        parameters: travel in the ensemble's config, as JSON: class names and provenance.
    """

    name: str
    letterbox: LetterboxSpec
    candidates: int
    max_batch_size: int
    max_pixels: int
    thresholds: contract.Thresholds
    parameters: Mapping[str, Any]
    target: Target
    engine_instances: int = 1
    queue_delay_us: int = 0
    scaled_decoding: bool = False

    @property
    def _sizes(self) -> dict[str, int]:
        """Of the letters in the contract's shapes."""
        height, width = self.letterbox.size_hw
        return {"H": height, "W": width, "K": self.candidates}

    def _config(self, name: str, stage: contract.Stage, **fields: Any) -> pb.ModelConfig:
        config = pb.ModelConfig(name=name, max_batch_size=self.max_batch_size, **fields)
        for tensor in stage.inputs:
            dims = tensor.dims(self._sizes)
            config.input.add(name=tensor.name, data_type=_type(tensor), dims=dims, optional=tensor.optional)
        for tensor in stage.outputs:
            config.output.add(name=tensor.name, data_type=_type(tensor), dims=tensor.dims(self._sizes))
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
        fields: dict[str, dict[str, Any]] = {
            "preprocess": {"backend": "python"},
            "engine": {"backend": self.target.backend, "default_model_filename": self.target.engine_file},
            "postprocess": {"backend": "python"},
        }
        pictures = {contract.LETTERBOX: self.letterbox.to_dict(), contract.MAX_PIXELS: self.max_pixels}
        parameters: dict[str, Mapping[str, Any]] = {
            "preprocess": {
                **pictures,
                contract.SCALED_DECODING: self.scaled_decoding,
                contract.CORE_SHARE: self.target.preprocess_core_share,
            },
            "engine": {
                **self.target.engine_parameters,
                **({contract.KNOWN_ANSWER: known_answer} if known_answer else {}),
            },
            "postprocess": {
                contract.SCORE_THRESHOLD.name: self.thresholds.score,
                contract.IOU_THRESHOLD.name: self.thresholds.iou,
            },
        }
        instances = {"preprocess": self.target.preprocess_instances, "engine": self.engine_instances}
        configs = {}
        for stage, tensors in contract.STAGES.items():
            config = self._config(names[stage], tensors, **fields[stage])
            config.instance_group.add(kind=pb.ModelInstanceGroup.KIND_CPU, count=instances.get(stage, 1))
            config.dynamic_batching.SetInParent()
            _set_parameters(config, parameters[stage])
            configs[config.name] = config
        self._tune_engine(configs[names["engine"]])
        for ensemble, picture in ((contract.frames_name(self.name), contract.FRAME), (self.name, contract.IMAGE)):
            given = (picture, *contract.THRESHOLDS)
            config = self._config(ensemble, contract.Stage(given, contract.OUTPUTS), platform="ensemble")
            other = contract.IMAGE if picture is contract.FRAME else contract.FRAME
            for stage, tensors in contract.STAGES.items():
                config.ensemble_scheduling.step.add(
                    model_name=names[stage],
                    model_version=-1,
                    input_map={tensor.name: tensor.name for tensor in tensors.inputs if tensor.name != other.name},
                    output_map={tensor.name: tensor.name for tensor in tensors.outputs},
                )
            configs[ensemble] = config
        _set_parameters(configs[self.name], {**self.parameters, **parameters["postprocess"], **pictures})
        return configs

    def _tune_engine(self, engine: pb.ModelConfig) -> None:
        engine.dynamic_batching.max_queue_delay_microseconds = self.queue_delay_us
        self.target.tune(engine)
        for batch_size in sorted({1, self.max_batch_size}):
            warmup = engine.model_warmup.add(name=f"batch of {batch_size}", batch_size=batch_size)
            warmup.inputs[contract.IMAGES.name].CopyFrom(
                pb.ModelWarmup.Input(
                    data_type=_type(contract.IMAGES), dims=contract.IMAGES.dims(self._sizes), random_data=True
                )
            )


def render(config: pb.ModelConfig) -> str:
    """Text of a config.pbtxt; map entries sorted, so that the same config is the same text."""
    return text_format.MessageToString(config, as_utf8=True)  # type: ignore[no-any-return]


def _type(tensor: contract.Tensor) -> int:
    name = _BYTES if tensor.datatype == "BYTES" else tensor.datatype
    return int(pb.DataType.Value(f"TYPE_{name}"))


def _set_parameters(config: pb.ModelConfig, parameters: Mapping[str, Any]) -> None:
    for key, value in parameters.items():
        config.parameters[key].string_value = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
