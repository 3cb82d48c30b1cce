"""Files read as their runtimes read them, by no code of the exporter, against the unfused network in PyTorch."""

from __future__ import annotations

import configparser
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import yaml
from nas_build.errors import OptionError
from nas_build.exports import FORMATS, get, run, runner
from nas_build.exports.options import ExportOptions
from nas_build.exports.run import ExportResult
from nas_build.yolo_nas import processing
from nas_build.yolo_nas.network import YoloNAS
from nas_ensembles import contract, nms
from nas_ensembles.letterbox import LetterboxSpec
from nas_eval.coco_names import COCO_NAMES
from numpy.typing import NDArray

from support.networks import QUARTER, canvas_of, lively
from support.samples import CUSTOM_NAMES, CUSTOM_PROCESSING, PICTURES

SQUARE = LetterboxSpec((320, 320), (320, 320), stretch=True)  # what Frigate sees
Rows = NDArray[np.float32]  # (N, 6): x1, y1, x2, y2, score, label, best first
Files = dict[str, ExportResult]


def rows(boxes: NDArray[Any], scores: NDArray[Any], thresholds: contract.Thresholds) -> Rows:
    anchors, labels = np.nonzero(scores > thresholds.score)
    best = scores[anchors, labels]
    kept = nms.select(boxes[anchors], best, labels.astype(np.int32), thresholds)
    return np.column_stack([boxes[anchors], best, labels]).astype(np.float32)[kept]


def raw(network: YoloNAS, x: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Of one picture, as the network wants it."""
    with torch.inference_mode():
        boxes, scores = network(torch.from_numpy(np.ascontiguousarray(x, np.float32))[None])
    return boxes[0].numpy(), scores[0].numpy()


def of_plain(outputs: list[NDArray[Any]], thresholds: contract.Thresholds) -> Rows:
    return rows(outputs[0][0], outputs[1][0], thresholds)


def of_frigate(outputs: list[NDArray[Any]], _: contract.Thresholds) -> Rows:
    """As `detect_raw` of Frigate's detectors."""
    found: list[list[float]] = []
    for i, (_picture, *box, score, label) in enumerate(outputs[0]):
        if i == 20 or label < 0:
            break
        found.append([*box, score, label])
    return np.array(found, np.float32).reshape(-1, 6)


def of_deepstream(outputs: list[NDArray[Any]], thresholds: contract.Thresholds) -> Rows:
    """As `decodeTensorYolo`; cluster-mode=2 is NMS."""
    found = outputs[0][0]
    found = found[found[:, 4] >= thresholds.score]
    return found[nms.select(found[:, :4], found[:, 4], found[:, 5].astype(np.int32), thresholds)]


def of_flat(outputs: list[NDArray[Any]], _: contract.Thresholds) -> Rows:
    assert (outputs[0][:, 0] == 0).all()
    return outputs[0][:, 1:]


def of_batch(outputs: list[NDArray[Any]], _: contract.Thresholds) -> Rows:
    count = int(outputs[0][0, 0])
    return np.column_stack([outputs[1][0], outputs[2][0], outputs[3][0]])[:count].astype(np.float32)


READERS: dict[str, Callable[[list[NDArray[Any]], contract.Thresholds], Rows]] = {
    "onnx": of_plain,
    "frigate": of_frigate,
    "deepstream": of_deepstream,
    "sg-flat": of_flat,
    "sg-batch": of_batch,
}


def test_each_format_is_read_here() -> None:
    assert READERS.keys() == FORMATS.keys()


@pytest.mark.parametrize("by", runner.RUNNERS)
@pytest.mark.parametrize("name", FORMATS)
def test_it_detects_what_pytorch_detects(name: str, by: str, files: Files, demo_network: YoloNAS) -> None:
    opened = runner.opened(files[name].files[0].read_bytes(), by)
    thresholds = contract.Thresholds(score=0.4, max_detections=20) if name == "frigate" else contract.Thresholds()
    count = 0
    for path in PICTURES:
        canvas = canvas_of(path, SQUARE if name == "frigate" else QUARTER.letterbox)
        expected = rows(*raw(demo_network, canvas / np.float32(255)), thresholds)
        takes = {"onnx": canvas / np.float32(255), "deepstream": canvas * np.float32(0.0039215697906911373)}
        got = READERS[name](opened(takes.get(name, canvas[::-1] if name == "frigate" else canvas)[None]), thresholds)
        assert len(got) == len(expected)
        np.testing.assert_allclose(got[:, :4], expected[:, :4], atol=0.02)
        np.testing.assert_allclose(got[:, 4], expected[:, 4], atol=1e-4)
        np.testing.assert_array_equal(got[:, 5], expected[:, 5])
        count += len(got)
    assert count >= (4 if name == "frigate" else 8)


@pytest.mark.parametrize(
    ("name", "inputs", "outputs"),
    [
        (
            "onnx",
            {"input": "float32 [1, 3, 320, 320]"},
            {"boxes": "float32 [1, 2100, 4]", "scores": "float32 [1, 2100, 80]"},
        ),
        ("frigate", {"input": "uint8 [1, 3, 320, 320]"}, {"flat_predictions": "float32 [20, 7]"}),
        ("deepstream", {"input": "float32 [batch, 3, 320, 320]"}, {"output": "float32 [batch, 2100, 6]"}),
        ("sg-flat", {"input": "uint8 [1, 3, 320, 320]"}, {"flat_predictions": "float32 [N, 7]"}),
        (
            "sg-batch",
            {"input": "uint8 [1, 3, 320, 320]"},
            {
                "num_predictions": "int64 [1, 1]",
                "pred_boxes": "float32 [1, 300, 4]",
                "pred_scores": "float32 [1, 300]",
                "pred_classes": "int64 [1, 300]",
            },
        ),
    ],
)
def test_tensors(name: str, inputs: dict[str, str], outputs: dict[str, str], files: Files) -> None:
    assert (files[name].inputs, files[name].outputs) == (inputs, outputs)


@pytest.mark.parametrize("name", FORMATS)
def test_what_travels_in_the_file(name: str, files: Files) -> None:
    model = onnx.load(files[name].files[0])
    assert [(one.domain, one.version) for one in model.opset_import] == [("", 17)]
    properties = {entry.key: entry.value for entry in model.metadata_props}
    assert properties == files[name].metadata and properties["format"] == name
    assert list(json.loads(properties["names"]).values()) == list(COCO_NAMES)
    preprocessing = json.loads(properties["preprocessing"])
    assert preprocessing["channels"] == ("BGR" if name == "frigate" else "RGB")
    assert preprocessing["pixels"] == ("0 to 1" if name in ("onnx", "deepstream") else "0 to 255")
    spec = LetterboxSpec.from_dict(preprocessing["letterbox"])
    assert spec == (replace(SQUARE, pad_value=114) if name == "frigate" else QUARTER.letterbox)
    assert ("thresholds" in properties) == (name not in ("onnx", "deepstream"))
    assert model.producer_name == "nas-triton" and model.producer_version
    text = model.SerializeToString()
    for trace in (b"/nas_build/", b"site-packages", b"stack_trace", b".py"):
        assert trace not in text


def test_the_same_checkpoint_gives_the_same_bytes(files: Files, quarter_checkpoint: Path, tmp_path: Path) -> None:
    again = run.export(ExportOptions(quarter_checkpoint, "sg-flat", output=tmp_path / "again.onnx"))
    assert again.files[0].read_bytes() == files["sg-flat"].files[0].read_bytes()


def test_what_is_not_there_is_minus_one(files: Files) -> None:
    """Of a grey picture."""
    grey = np.full((1, 3, 320, 320), 114, np.uint8)
    count, boxes, scores, labels = runner.opened(files["sg-batch"].files[0].read_bytes())(grey)
    assert count.tolist() == [[0]] and (boxes == -1).all() and (scores == -1).all() and (labels == -1).all()
    assert runner.opened(files["sg-flat"].files[0].read_bytes())(grey)[0].shape == (0, 7)
    (frigate,) = runner.opened(files["frigate"].files[0].read_bytes())(grey)
    assert (frigate[:, 6] == -1).all()


@pytest.mark.parametrize("by", runner.RUNNERS)
@pytest.mark.parametrize("name", ["onnx", "deepstream", "sg-flat", "sg-batch"])
def test_pictures_of_a_batch_are_apart(name: str, by: str, files: Files, batched: Callable[[str], bytes]) -> None:
    opened, one_by_one = (runner.opened(file, by) for file in (batched(name), files[name].files[0].read_bytes()))
    canvases = np.stack([canvas_of(path, QUARTER.letterbox) for path in PICTURES])
    batch = canvases / np.float32(255) if name in ("onnx", "deepstream") else canvases
    together = opened(batch)
    for i in range(len(batch)):
        for both, alone in zip(together, one_by_one(batch[i : i + 1]), strict=True):
            if name == "sg-flat":
                np.testing.assert_allclose(both[both[:, 0] == i][:, 1:], alone[:, 1:], rtol=1e-3, atol=0.02)
            else:
                np.testing.assert_allclose(both[i], alone[0], rtol=1e-3, atol=0.02)


@pytest.mark.parametrize("name", FORMATS)
def test_another_processing_is_in_the_graph(name: str, tmp_path: Path) -> None:
    """A network that wants BGR from 0 to 255: what goes into the file is the same as of any other."""
    network = lively("s", len(CUSTOM_NAMES), pixel_scale=1)
    custom = processing.compile_processing(CUSTOM_PROCESSING)
    form = get(name)(custom, CUSTOM_NAMES, ExportOptions("x", name, batch=None))
    canvas = canvas_of(PICTURES[1], form.settings.letterbox)
    outputs = runner.opened(form.build(network, "s").SerializeToString())(form.feed(canvas)[None])
    boxes, scores = raw(network, canvas[::-1])
    if name == "deepstream":
        scores = np.where(scores == scores.max(axis=1, keepdims=True), scores, 0)
    thresholds = form.settings.thresholds
    expected, got = rows(boxes, scores, thresholds), READERS[name](outputs, thresholds)
    assert len(expected) >= 10
    assert thresholds == contract.Thresholds(*((0.4, 0.65, 20) if name == "frigate" else (0.5, 0.65)))
    np.testing.assert_allclose(got[:10, 4], expected[:10, 4], atol=1e-3)
    np.testing.assert_allclose(got[:10, :4], expected[:10, :4], atol=0.2)


@pytest.mark.parametrize(
    ("asked", "size_hw", "fit_hw"), [(None, (320, 320), (318, 318)), ((640, 320), (640, 320), (636, 318))]
)
def test_the_letterbox_grows_with_the_canvas(
    asked: tuple[int, int] | None, size_hw: tuple[int, int], fit_hw: tuple[int, int]
) -> None:
    form = get("onnx")(QUARTER, COCO_NAMES, ExportOptions("x", "onnx", size_hw=asked))
    assert form.settings.letterbox == replace(QUARTER.letterbox, size_hw=size_hw, fit_hw=fit_hw)


def test_frigate_is_told_what_its_documentation_says(files: Files) -> None:
    config = yaml.safe_load(files["frigate"].notes)
    assert config["model"] == {
        "model_type": "yolonas",
        "width": 320,
        "height": 320,
        "input_tensor": "nchw",
        "input_pixel_format": "bgr",
        "path": "/config/frigate.onnx",
        "labelmap_path": "/config/labelmap.txt",
    }
    labels = files["frigate"].files[1]
    pairs = [line.split(" ", maxsplit=1) for line in labels.read_text().splitlines()]  # as Frigate's load_labels
    assert labels.name == "labelmap.txt" and pairs[0] == ["0", "person"] and len(pairs) == 80


def test_deepstream_is_told_what_its_configuration_wants(files: Files) -> None:
    config = configparser.ConfigParser()
    config.read_string(files["deepstream"].notes)
    told = config["property"]
    assert told["onnx-file"] == "deepstream.onnx" and told["parse-bbox-func-name"] == "NvDsInferParseYolo"
    assert told["num-detected-classes"] == "80" and told["model-color-format"] == "0"
    assert told["maintain-aspect-ratio"] == told["symmetric-padding"] == "1"
    assert dict(config["class-attrs-all"]) == {
        "nms-iou-threshold": "0.7",
        "pre-cluster-threshold": "0.25",
        "topk": "300",
    }
    labels = files["deepstream"].files[1]
    assert labels.name == "labels.txt" and labels.read_text().splitlines() == list(COCO_NAMES)


def test_a_name_of_two_lines_is_one_label() -> None:
    names = ["bolt\nnut", *CUSTOM_NAMES[1:]]
    for name in ("frigate", "deepstream"):
        (text,) = get(name)(QUARTER, names, ExportOptions("x", name)).labels().values()
        assert len(text.splitlines()) == 3 and "bolt nut" in text


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        ("onnx", "score_threshold", 0.5),
        ("onnx", "max_detections", 5),
        ("frigate", "batch", 2),
        ("frigate", "max_detections", 5),
    ],
)
def test_an_option_that_a_format_does_not_have_is_refused(name: str, option: str, value: object) -> None:
    with pytest.raises(OptionError, match=f"{name} has no such option") as error:
        get(name)(QUARTER, COCO_NAMES, ExportOptions("x", name, **{option: value}))  # type: ignore[arg-type]
    assert error.value.options == (option,)


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(OptionError, match="no format 'coreml'; expected one of onnx, frigate"):
        get("coreml")
