"""The `openvino` backend when a graph fails; what it computes is in test_serving.py and test_instruction_sets.py."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from google.protobuf import text_format
from nas_client import ClientError, Detector, Failed
from nas_serve import Server
from onnx import TensorProto, helper
from tritonclient.grpc import model_config_pb2

from support.samples import SAMPLES

ENGINE = "yolo_nas_s_int8_engine"


def test_an_engine_that_fails_answers_every_request(repository: Path, tmp_path: Path) -> None:
    """A graph that only fails when it runs, on pictures that come alone and together: errors, and nobody waits."""
    for folder in repository.glob("yolo_nas_s_int8*"):
        # Without its known answer: a graph that cannot give it is not loaded. Nor is one that is not what was built.
        without = shutil.ignore_patterns("known_answer.json", "manifest.json")
        shutil.copytree(folder, tmp_path / folder.name, ignore=without)
    outputs = {"candidate_boxes": [1024, 4], "candidate_scores": [1024], "candidate_labels": [1024]}
    kinds = {name: TensorProto.INT32 if name.endswith("labels") else TensorProto.FLOAT for name in outputs}
    nodes = [
        helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMax", ["pixels"], ["brightest"], keepdims=0),
        helper.make_node("Cast", ["brightest"], ["rows"], to=TensorProto.INT64),
        helper.make_node("Range", ["zero", "rows", "one"], ["some"]),  # at most 255 of them
    ]
    constants = [helper.make_tensor(name, TensorProto.INT64, [], [value]) for name, value in (("zero", 0), ("one", 1))]
    constants.append(helper.make_tensor("many", TensorProto.INT64, [4096], [0] * 4096))
    nodes.append(helper.make_node("Add", ["some", "many"], ["sum"]))  # which do not fit together
    for name, dims in outputs.items():
        constants.append(helper.make_tensor(f"{name}_dims", TensorProto.INT64, [len(dims) + 1], [1, *dims]))
        constants.append(helper.make_tensor(f"{name}_size", TensorProto.INT64, [1], [int(np.prod(dims))]))
        constants.append(helper.make_tensor(f"{name}_from", TensorProto.INT64, [1], [0]))
        nodes.append(helper.make_node("Slice", ["sum", f"{name}_from", f"{name}_size"], [f"{name}_flat"]))
        nodes.append(helper.make_node("Reshape", [f"{name}_flat", f"{name}_dims"], [f"{name}_whole"]))
        nodes.append(helper.make_node("Cast", [f"{name}_whole"], [name], to=kinds[name]))
    graph = helper.make_graph(
        nodes,
        "fails",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", 3, 640, 640])],
        [
            helper.make_tensor_value_info(
                name, TensorProto.INT32 if name.endswith("labels") else TensorProto.FLOAT, None
            )
            for name in outputs
        ],
        constants,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), tmp_path / ENGINE / "1/model.onnx")
    path = tmp_path / ENGINE / "config.pbtxt"
    config = text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())
    config.ClearField("model_warmup")
    path.write_text(text_format.MessageToString(config))
    with Server(tmp_path) as server, Detector(server.grpc_url, timeout_s=30) as detector:
        with pytest.raises(ClientError, match="OpenVINO: "):
            detector.detect(SAMPLES / "bus.jpg")
        outcomes = list(detector.detect_many([SAMPLES / "bus.jpg"] * 24, in_flight=12))
    assert len(outcomes) == 24 and all(isinstance(one, Failed) and "OpenVINO" in str(one.error) for one in outcomes)
