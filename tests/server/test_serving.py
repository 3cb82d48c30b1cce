"""The six models in a real Triton: contract, boxes, errors, batches."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import pytest
import torch
import tritonclient.grpc as triton
from nas_build.graph.export import EndToEnd, top_candidates
from nas_build.yolo_nas import processing
from nas_build.yolo_nas.network import YoloNAS
from nas_client import Detected, Detections, Detector, Failed, ImageRefused
from nas_ensembles import contract, images
from nas_serve import Server
from tritonclient.utils import InferenceServerException

from support.networks import canvas_of, in_pytorch
from support.samples import CUSTOM_NAMES, CUSTOM_PROCESSING, PICTURES, SAMPLES

SIX = [contract.model_name(variant, precision) for variant in "sml" for precision in ("fp16", "int8")]


def test_all_six_are_built(six_builds: tuple[Path, dict[str, str]]) -> None:
    """What else wants them is skipped if this fails."""
    _, failed = six_builds
    assert not failed


@pytest.fixture(scope="module")
def client(server: Server) -> triton.InferenceServerClient:
    return triton.InferenceServerClient(server.grpc_url)


def infer(client: triton.InferenceServerClient, name: str, encoded: list[bytes], **options: Any) -> Any:
    tensor = triton.InferInput("image", [len(encoded), 1], "BYTES")
    tensor.set_data_from_numpy(np.array(encoded, dtype=object).reshape(-1, 1))
    inputs = [tensor]
    for key, value in options.items():
        array = np.full((len(encoded), 1), value, np.int32 if key == "max_detections" else np.float32)
        extra = triton.InferInput(key, list(array.shape), "INT32" if key == "max_detections" else "FP32")
        extra.set_data_from_numpy(array)
        inputs.append(extra)
    return client.infer(name, inputs)


def matched(expected: tuple[np.ndarray, ...], got: Detections, px: float, score: float) -> np.ndarray:
    """For each expected detection, whether there is one of its label within the tolerances."""
    return np.array(
        [
            bool(
                (
                    (np.abs(got.boxes_xyxy - box).max(axis=1, initial=0) <= px)
                    & (np.abs(got.scores - s) <= score)
                    & (got.labels == label)
                ).any()
            )
            for box, s, label in zip(*expected, strict=True)
        ]
    )


@pytest.mark.parametrize("name", SIX)
def test_metadata_is_the_contract(name: str, client: triton.InferenceServerClient) -> None:
    metadata = client.get_model_metadata(name)
    inputs = {t.name: (t.datatype, list(t.shape)) for t in metadata.inputs}
    outputs = {t.name: (t.datatype, list(t.shape)) for t in metadata.outputs}
    assert inputs == {
        "image": ("BYTES", [-1, 1]),
        "score_threshold": ("FP32", [-1, 1]),
        "iou_threshold": ("FP32", [-1, 1]),
        "max_detections": ("INT32", [-1, 1]),
    }
    assert outputs == {
        "num_detections": ("INT32", [-1, 1]),
        "boxes": ("FP32", [-1, 300, 4]),
        "scores": ("FP32", [-1, 300]),
        "labels": ("INT32", [-1, 300]),
    }


@pytest.mark.parametrize("name", SIX)
def test_outputs_are_sorted_clipped_and_padded(name: str, client: triton.InferenceServerClient) -> None:
    result = infer(client, name, [(SAMPLES / "bus.jpg").read_bytes()], score_threshold=0.05, max_detections=7)
    n = int(result.as_numpy("num_detections")[0, 0])
    boxes, scores, labels = (result.as_numpy(key)[0] for key in ("boxes", "scores", "labels"))
    assert 0 < n <= 7
    assert (np.diff(scores[:n]) <= 0).all() and (scores[:n] > 0.05).all() and (labels[:n] >= 0).all()
    assert (boxes[:n] >= 0).all() and (boxes[:n] <= [810, 1080, 810, 1080]).all()
    assert (boxes[:n, 2:] >= boxes[:n, :2]).all()
    assert not boxes[n:].any() and not scores[n:].any() and (labels[n:] == -1).all()


@pytest.mark.parametrize("path", PICTURES, ids=lambda path: path.stem)
def test_served_fp16_agrees_with_pytorch(path: Path, server: Server, demo_network: YoloNAS) -> None:
    """Every object of either is in the other within 1 px and 0.01, but for those on the threshold itself."""
    expected = in_pytorch(demo_network, processing.COCO, path)
    with Detector(server.grpc_url, model="yolo_nas_s_fp16") as detector:
        got = detector.detect(path)
    assert len(got) and matched(expected, got, 1.0, 0.01)[expected[1] > 0.26].all()
    mirrored = Detections(*expected, names=("",) * len(expected[1]))
    back = matched((got.boxes_xyxy, got.scores, got.labels), mirrored, 1.0, 0.01)
    assert back[got.scores > 0.26].all()


@pytest.mark.parametrize("path", PICTURES, ids=lambda path: path.stem)
def test_served_int8_finds_the_same_objects(path: Path, server: Server, demo_network: YoloNAS) -> None:
    boxes, scores, labels = in_pytorch(demo_network, processing.COCO, path)
    with Detector(server.grpc_url, model="yolo_nas_s_int8") as detector:
        got = detector.detect(path)
    clear = scores > 0.4
    assert clear.any()
    assert matched((boxes[clear], scores[clear], labels[clear]), got, px=25.0, score=0.2).all()
    back = matched(
        (got.boxes_xyxy, got.scores, got.labels), Detections(boxes, scores, labels, ("",) * len(labels)), 25, 0.2
    )
    assert back[got.scores > 0.4].all()


def test_bus_is_a_bus_and_its_people(server: Server) -> None:
    for name in ("yolo_nas_s_fp16", "yolo_nas_s_int8"):
        with Detector(server.grpc_url, model=name) as detector:
            found = detector.detect(SAMPLES / "bus.jpg", score_threshold=0.5)
        assert sorted(found.names) == ["bus", "person", "person", "person", "person"]


def test_custom_checkpoint_is_preprocessed_its_own_way(server: Server, networks: dict[str, YoloNAS]) -> None:
    """BGR, undivided pixels, bottom-right padding, its own names and thresholds: all from the checkpoint."""
    compiled = processing.compile_processing(CUSTOM_PROCESSING)
    with Detector(server.grpc_url, model="yolo_nas_l_fp16") as detector:
        assert detector.class_names == CUSTOM_NAMES
        parameters = detector.model.parameters
        assert parameters["score_threshold"] == 0.5 and parameters["iou_threshold"] == 0.65
        total = 0
        for path in PICTURES:
            loose = processing.Processing(**{**compiled.__dict__, "thresholds": contract.Thresholds(0.3, 0.65)})
            expected = in_pytorch(networks["l"], loose, path)
            clear = expected[1] > 0.32
            total += clear.sum()
            got = detector.detect(path, score_threshold=0.3)
            found = matched(expected, got, 1.0 / 0.59, 0.01)[clear]
            assert found.mean() >= 0.9 if clear.any() else True
        assert total >= 3
        wrong = in_pytorch(networks["l"], processing.COCO, PICTURES[1])
        assert len(wrong[1]) != len(in_pytorch(networks["l"], compiled, PICTURES[1])[1]) or not np.allclose(
            wrong[0], in_pytorch(networks["l"], compiled, PICTURES[1])[0], atol=5
        )


def test_a_batch_gives_what_single_requests_give(client: triton.InferenceServerClient) -> None:
    encoded = [path.read_bytes() for path in PICTURES] * 2
    together = infer(client, "yolo_nas_s_int8", encoded)
    for i, one in enumerate(encoded):
        single = infer(client, "yolo_nas_s_int8", [one])
        for key in ("num_detections", "boxes", "scores", "labels"):
            np.testing.assert_array_equal(together.as_numpy(key)[i], single.as_numpy(key)[0])


BAD = {
    "empty": (b"", r"image\[0\] of 1: zero bytes"),
    "text": (b"hello", r"image\[0\] of 1: 5 bytes that are no JPEG"),
    "cut": (
        (SAMPLES / "astronaut.png").read_bytes()[:60],
        r"image\[0\] of 1: a PNG of 60 bytes with a chunk that claims",
    ),
}


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_a_picture_that_cannot_be_read_is_invalid(kind: str, protocol: Any, server: Server) -> None:
    data, message = BAD[kind]
    url = server.grpc_url if protocol == "grpc" else server.http_url
    with Detector(url, protocol=protocol, model="yolo_nas_s_int8") as detector:
        with pytest.raises(ImageRefused, match=message):
            detector.detect(data)
        assert detector.detect(SAMPLES / "chelsea.png").names[0] == "cat"


def test_the_status_is_invalid_argument(client: triton.InferenceServerClient, server: Server) -> None:
    with pytest.raises(InferenceServerException) as caught:
        infer(client, "yolo_nas_s_int8", [b"x"])
    assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"
    body = {"inputs": [{"name": "image", "datatype": "BYTES", "shape": [1, 1], "data": ["x"]}]}
    assert httpx.post(f"http://{server.http_url}/v2/models/yolo_nas_s_int8/infer", json=body).status_code == 400


def test_the_position_in_the_batch_is_named(client: triton.InferenceServerClient) -> None:
    good = (SAMPLES / "bus.jpg").read_bytes()
    with pytest.raises(triton.InferenceServerException, match=r"image\[2\] of 3: zero bytes"):
        infer(client, "yolo_nas_s_int8", [good, good, b""])


def test_neighbours_of_bad_pictures_are_answered(server: Server) -> None:
    """Many requests at once share batches; each bad one fails alone."""
    good = (SAMPLES / "chelsea.png").read_bytes()
    items = [good if i % 3 else b"bad" for i in range(36)]
    with Detector(server.grpc_url, model="yolo_nas_s_int8") as detector:
        outcomes = list(detector.detect_many(items, in_flight=16))
    for item, outcome in zip(items, outcomes, strict=True):
        if item == good:
            assert isinstance(outcome, Detected) and outcome.detections.names[0] == "cat"
        else:
            assert isinstance(outcome, Failed) and isinstance(outcome.error, ImageRefused)


def test_more_pixels_than_the_limit(server: Server) -> None:
    """51 megapixels in a small file; the default limit is 50."""
    big = cv2.imencode(".png", np.zeros((6000, 8500), np.uint8))[1].tobytes()
    with Detector(server.grpc_url, model="yolo_nas_s_int8") as detector:
        with pytest.raises(ImageRefused, match="more pixels than the limit"):
            detector.detect(big)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"score_threshold": 1.5}, "score_threshold must be from 0 to 1, got 1.5"),
        ({"score_threshold": float("nan")}, "score_threshold must be from 0 to 1, got nan"),
        ({"iou_threshold": -0.1}, "iou_threshold must be from 0 to 1"),
        ({"max_detections": 0}, "max_detections must be from 1 to 300, got 0"),
        ({"max_detections": 1000}, "max_detections must be from 1 to 300, got 1000"),
    ],
)
def test_thresholds_out_of_range_are_invalid(options: dict, message: str, server: Server) -> None:
    with Detector(server.grpc_url, model="yolo_nas_s_int8") as detector:
        with pytest.raises(ImageRefused, match=message):
            detector.detect(SAMPLES / "bus.jpg", **options)


def test_thresholds_are_per_picture_of_a_batch(client: triton.InferenceServerClient) -> None:
    data = (SAMPLES / "bus.jpg").read_bytes()
    tensor = triton.InferInput("image", [2, 1], "BYTES")
    tensor.set_data_from_numpy(np.array([[data], [data]], dtype=object))
    most = triton.InferInput("max_detections", [2, 1], "INT32")
    most.set_data_from_numpy(np.array([[1], [3]], np.int32))
    result = client.infer("yolo_nas_s_int8", [tensor, most])
    assert result.as_numpy("num_detections")[:, 0].tolist() == [1, 3]


def test_exif_orientation_is_honoured(server: Server) -> None:
    """The picture stored on its side with the tag that says so: the same objects in the same places."""
    upright = cv2.imread(str(SAMPLES / "bus.jpg"))
    stored = cv2.imencode(".jpg", cv2.rotate(upright, cv2.ROTATE_90_COUNTERCLOCKWISE), [cv2.IMWRITE_JPEG_QUALITY, 98])[
        1
    ]
    segment = b"Exif\0\0II*\0" + struct.pack("<IHHHIHHI", 8, 1, 0x0112, 3, 1, 6, 0, 0)
    jpeg = stored[:2].tobytes() + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + stored[2:].tobytes()
    with Detector(server.grpc_url, model="yolo_nas_s_fp16") as detector:
        expected, got = (
            detector.detect(SAMPLES / "bus.jpg", score_threshold=0.5),
            detector.detect(jpeg, score_threshold=0.5),
        )
    assert got.names == expected.names
    np.testing.assert_allclose(got.boxes_xyxy, expected.boxes_xyxy, atol=8)


def test_engine_alone_agrees_with_its_graph(client: triton.InferenceServerClient, demo_network: YoloNAS) -> None:
    canvas = canvas_of(PICTURES[1])
    tensor = triton.InferInput("images", [1, 3, 640, 640], "UINT8")
    tensor.set_data_from_numpy(canvas[None])
    result = client.infer("yolo_nas_s_fp16_engine", [tensor])
    with torch.inference_mode():
        expected = top_candidates(
            *EndToEnd(demo_network, processing.COCO, torch.float32).decoded(torch.from_numpy(canvas)[None])
        )
    np.testing.assert_allclose(result.as_numpy("candidate_scores"), expected[1].numpy(), atol=0.01)


def test_mixed_sizes_form_batches_and_stay_apart(server: Server) -> None:
    """Pictures and frames of many sizes at once: the engine's executions are shared, the answers are not."""

    def executions() -> tuple[int, int]:
        counts = detector.transport.statistics("yolo_nas_s_int8_engine")
        return int(counts["inference_count"]), int(counts["execution_count"])

    pictures = [images.decode(path.read_bytes()) for path in PICTURES]
    mixed: list[Any] = [
        cv2.resize(pictures[i % 4], None, fx=f, fy=f) for i, f in enumerate((0.3, 0.5, 0.7, 0.9, 1.0, 1.1, 1.3, 0.4))
    ]
    mixed += [cv2.imencode(".png", frame[..., ::-1])[1].tobytes() for frame in mixed]
    with Detector(server.grpc_url, model="yolo_nas_s_int8") as detector:
        expected = [detector.detect(one) for one in mixed] * 4
        before = executions()
        outcomes = list(detector.detect_many(mixed * 4, in_flight=16))
        after = executions()
    for outcome, one in zip(outcomes, expected, strict=True):
        assert isinstance(outcome, Detected)
        np.testing.assert_array_equal(outcome.detections.boxes_xyxy, one.boxes_xyxy)
        np.testing.assert_array_equal(outcome.detections.scores, one.scores)
    assert 0 <= after[0] - before[0] - 64 <= 2  # the supervisor asks too, now and then
    assert after[1] - before[1] < 40


def test_frames_have_a_contract_of_their_own(server: Server, client: triton.InferenceServerClient) -> None:
    metadata = client.get_model_metadata("yolo_nas_s_int8_frames")
    assert {t.name: (t.datatype, list(t.shape)) for t in metadata.inputs}["frame"] == ("UINT8", [-1, -1, -1, 3])
    whole = client.get_model_metadata("yolo_nas_s_int8")
    assert {t.name for t in metadata.inputs} ^ {t.name for t in whole.inputs} == {"frame", "image"}
    assert {t.name for t in metadata.outputs} == {t.name for t in whole.outputs}


@pytest.mark.parametrize(
    ("shape", "message"),
    [((1, 0, 5, 3), r"image\[0\] of 1: image must be"), ((1, 5, 5, 4), "unexpected shape"), ((9, 4, 4, 3), "batch")],
)
def test_frames_that_are_none(shape: tuple[int, ...], message: str, client: triton.InferenceServerClient) -> None:
    tensor = triton.InferInput("frame", list(shape), "UINT8")
    tensor.set_data_from_numpy(np.zeros(shape, np.uint8))
    with pytest.raises(triton.InferenceServerException, match=message) as caught:
        client.infer("yolo_nas_s_int8_frames", [tensor])
    assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"


def test_either_a_picture_or_a_frame(client: triton.InferenceServerClient) -> None:
    image = triton.InferInput("image", [1, 1], "BYTES")
    image.set_data_from_numpy(np.array([[b"x"]], dtype=object))
    frame = triton.InferInput("frame", [1, 4, 4, 3], "UINT8")
    frame.set_data_from_numpy(np.zeros((1, 4, 4, 3), np.uint8))
    with pytest.raises(triton.InferenceServerException, match="expected either image or frame"):
        client.infer("yolo_nas_s_int8_preprocess", [image, frame])


def test_coco8_objects_are_found(server: Server, coco_data: Path) -> None:
    """The demo checkpoint knows these pictures: most labelled objects are found where the label says."""
    total = found = 0
    with Detector(server.grpc_url, model="yolo_nas_s_int8") as detector:
        for label in sorted((coco_data / "coco8" / "labels").rglob("*.txt")):
            picture = coco_data / "coco8" / "images" / label.parent.name / f"{label.stem}.jpg"
            height, width = images.decode(picture.read_bytes()).shape[:2]
            detections = detector.detect(picture, score_threshold=0.25)
            for line in label.read_text().splitlines():
                kind, x, y, w, h = (float(v) for v in line.split())
                truth = np.array([(x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height])
                same = detections.boxes_xyxy[detections.labels == int(kind)]
                sides = (np.minimum(same[:, 2:], truth[2:]) - np.maximum(same[:, :2], truth[:2])).clip(0)
                overlap = sides.prod(axis=1)
                union = (same[:, 2:] - same[:, :2]).prod(axis=1) + (truth[2:] - truth[:2]).prod() - overlap
                total += 1
                found += bool((overlap / union > 0.5).any())
    assert total >= 20 and found / total > 0.8
