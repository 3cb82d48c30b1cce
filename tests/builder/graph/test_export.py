from __future__ import annotations

import numpy as np
import onnx
import openvino
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nas_build.graph import export
from nas_build.graph.export import EndToEnd, Exported, top_candidates
from nas_build.yolo_nas.network import YoloNAS
from nas_build.yolo_nas.processing import COCO, Processing
from nas_ensembles import contract
from nas_eval.coco_names import COCO_NAMES
from onnx import TensorProto

from support.networks import QUARTER, canvas_of
from support.samples import PICTURES

NAMES = (contract.CANDIDATE_BOXES.name, contract.CANDIDATE_SCORES.name, contract.CANDIDATE_LABELS.name)


@pytest.fixture(scope="module")
def fp16(exported: Exported) -> onnx.ModelProto:
    return exported.graph


def run(model: onnx.ModelProto, batch: np.ndarray) -> list[np.ndarray]:
    compiled = openvino.Core().compile_model(
        openvino.Core().read_model(model.SerializeToString()), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    results = compiled(batch)
    return [results[name] for name in NAMES]


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 10_000), st.integers(1, 60), st.integers(1, 7), st.integers(1, 50))
def test_two_stages_give_the_exact_top_k(seed: int, anchors: int, classes: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.permutation(np.linspace(0, 1, anchors * classes)).astype(np.float32).reshape(anchors, classes)
    boxes = rng.uniform(0, 640, (anchors, 4)).astype(np.float32)
    got = [t[0].numpy() for t in top_candidates(torch.from_numpy(boxes)[None], torch.from_numpy(scores)[None], k)]
    order = np.argsort(-scores, axis=None)[: min(k, anchors * classes, min(k, anchors) * classes)]
    np.testing.assert_array_equal(got[1], scores.reshape(-1)[order])
    np.testing.assert_array_equal(got[2], order % classes)
    np.testing.assert_array_equal(got[0], boxes[order // classes])


def test_contract(fp16: onnx.ModelProto) -> None:
    (images,) = fp16.graph.input
    assert (images.name, images.type.tensor_type.elem_type) == (contract.IMAGES.name, TensorProto.UINT8)
    outputs = {
        o.name: (o.type.tensor_type.elem_type, [d.dim_value for d in o.type.tensor_type.shape.dim][1:])
        for o in fp16.graph.output
    }
    assert outputs == {
        "candidate_boxes": (TensorProto.FLOAT, [1024, 4]),
        "candidate_scores": (TensorProto.FLOAT, [1024]),
        "candidate_labels": (TensorProto.INT32, [1024]),
    }
    for value in (*fp16.graph.input, *fp16.graph.output):
        assert value.type.tensor_type.shape.dim[0].dim_param  # the batch is dynamic


def test_types_are_consistent_and_convolutions_are_half(fp16: onnx.ModelProto) -> None:
    """Strict inference fails on a Float/Half mismatch; decoding is float32."""
    inferred = onnx.shape_inference.infer_shapes(fp16, check_type=True, strict_mode=True, data_prop=True)
    types = {v.name: v.type.tensor_type.elem_type for v in inferred.graph.value_info}
    convolutions = [n for n in fp16.graph.node if n.op_type in ("Conv", "ConvTranspose")]
    assert len(convolutions) == 100
    assert {types[n.output[0]] for n in convolutions} == {TensorProto.FLOAT16}
    softmaxes = [n for n in fp16.graph.node if n.op_type == "Softmax"]
    assert len(softmaxes) == 3 and {types[n.output[0]] for n in softmaxes} == {TensorProto.FLOAT}


def test_nothing_of_this_machine_is_in_the_file(fp16: onnx.ModelProto) -> None:
    text = fp16.SerializeToString()
    for trace in (b"/nas_build/", b"site-packages", b"stack_trace", b".py"):
        assert trace not in text
    assert {n.name for n in fp16.graph.node if n.op_type == "Conv"} >= {
        "backbone.stem.conv.conv",
        "heads.head1.cls_pred",
    }


def test_the_same_engine_gives_the_same_bytes(fp16: onnx.ModelProto, demo_network: YoloNAS) -> None:
    again = Exported.of(demo_network, QUARTER, COCO_NAMES, "s").graph
    assert again.SerializeToString(deterministic=True) == fp16.SerializeToString(deterministic=True)


def test_batch_rows_equal_single_runs(fp16: onnx.ModelProto) -> None:
    batch = np.stack([canvas_of(path, QUARTER.letterbox) for path in PICTURES])
    together = run(fp16, batch)
    for i in range(len(batch)):
        for all_rows, one in zip(together, run(fp16, batch[i : i + 1]), strict=True):
            np.testing.assert_allclose(all_rows[i, :50], one[0, :50], rtol=1e-3, atol=0.05)


def test_fp16_agrees_with_pytorch(fp16: onnx.ModelProto, demo_network: YoloNAS) -> None:
    canvas = canvas_of(PICTURES[1], QUARTER.letterbox)
    with torch.inference_mode():
        boxes, scores = demo_network(torch.from_numpy(canvas)[None].float() / 255)
    expected = [t[0].numpy() for t in top_candidates(boxes, scores)]
    got = [array[0] for array in run(fp16, canvas[None])]
    clear = expected[1] > 0.2
    assert clear.sum() >= 3
    np.testing.assert_allclose(got[1][clear], expected[1][clear], atol=0.01)
    np.testing.assert_array_equal(got[2][clear], expected[2][clear])


@pytest.mark.parametrize(
    "processing",
    [
        Processing(bgr=True),
        Processing(multiply=(1 / 58.0, 1 / 57.0, 1 / 56.0), add=(-2.1, -2.0, -1.8)),
        Processing(bgr=True, multiply=(1 / 58.0, 1 / 57.0, 1 / 56.0), add=(-2.1, -2.0, -1.8)),
    ],
    ids=["bgr", "normalized", "both"],
)
def test_processing_is_compiled_into_the_graph(processing: Processing, demo_network: YoloNAS) -> None:
    """The engine takes RGB; the network sees its own order and values."""
    canvas = canvas_of(PICTURES[2], QUARTER.letterbox)
    seen = canvas[::-1] if processing.bgr else canvas
    x = seen.astype(np.float32) * np.reshape(processing.multiply, (3, 1, 1)) + np.reshape(processing.add, (3, 1, 1))
    with torch.inference_mode():
        expected = demo_network(torch.from_numpy(x.astype(np.float32))[None])
        got = EndToEnd(demo_network, processing, torch.float32).decoded(torch.from_numpy(canvas)[None])
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3 * float(b.abs().max()))


@pytest.mark.slow
def test_small_canvas_has_fewer_candidates(demo_network: YoloNAS) -> None:
    from nas_build.yolo_nas import network

    model = export.export(EndToEnd(network.build("s", 1).eval(), COCO), (64, 96), "tiny")
    boxes, scores, labels = run(model, np.zeros((1, 3, 64, 96), np.uint8))
    assert boxes.shape == (1, 126, 4) and scores.shape == labels.shape == (1, 126)
