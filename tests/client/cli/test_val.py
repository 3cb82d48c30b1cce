"""nas-client val against a real Triton, beside the same measure of PyTorch in this process."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import yaml
from nas_build.graph import predict
from nas_build.graph.export import EndToEnd
from nas_build.yolo_nas.network import YoloNAS
from nas_build.yolo_nas.processing import COCO
from nas_client import Detector
from nas_client.validation import matching, measure
from nas_ensembles import contract, images
from nas_eval import metrics
from nas_eval.dataset import Dataset
from nas_eval.open_dataset import open_dataset
from nas_serve import Server

from support.networks import in_pytorch
from support.samples import PICTURES

BIN = Path(sys.executable).parent
FP16, INT8 = "yolo_nas_s_fp16", "yolo_nas_s_int8"
FIGURES = ("pdf", "png", "svg")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NAS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "validation"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, demo_network: YoloNAS, demo: Any) -> Path:
    """The samples and crops of them; the truth is what PyTorch is sure of, 0.88 times as wide.

    IoUs are thus about 0.88, away from COCO's thresholds of 0.85 and 0.9: rounding moves no box across one.
    """
    folder = tmp_path_factory.mktemp("data")
    for kind in ("images", "labels"):
        (folder / kind / "val").mkdir(parents=True)
    random = np.random.default_rng(0)
    for path in PICTURES:
        image = images.decode(path.read_bytes())
        for i in range(3):
            top, left = (int(random.integers(0, side // 4 + 1)) for side in image.shape[:2]) if i else (0, 0)
            crop = np.ascontiguousarray(image[top:, left:])
            picture = folder / "images/val" / f"{path.stem}_{i}.png"
            cv2.imwrite(str(picture), crop[..., ::-1])
            boxes, scores, labels = in_pytorch(demo_network, COCO, picture)
            boxes[:, 2] = boxes[:, 0] + 0.88 * (boxes[:, 2] - boxes[:, 0])
            height, width = crop.shape[:2]
            lines = []
            for (x1, y1, x2, y2), score, label in zip(boxes, scores, labels, strict=True):
                if score > 0.4:
                    box = ((x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height)
                    lines.append(f"{label} " + " ".join(f"{value:.6f}" for value in box))
            (folder / "labels/val" / f"{picture.stem}.txt").write_text("\n".join(lines))
    (folder / "labels/val/coffee_2.txt").unlink()  # a picture without objects
    path = folder / "data.yaml"
    path.write_text(yaml.safe_dump({"path": ".", "val": "images/val", "names": list(demo.class_names)}))
    return path


def val(server: Server, *arguments: object, **kwargs: Any) -> subprocess.CompletedProcess[str]:
    command = [BIN / "nas-client", "val", "--url", server.grpc_url, *arguments]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300, check=False, **kwargs)


def measured(server: Server, *arguments: object) -> dict[str, Any]:
    done = val(server, *arguments, "--json")
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def in_process(network: YoloNAS, dataset: Dataset) -> metrics.Metrics:
    categories = dataset.categories_of(list(dataset.class_names.values()))
    detect = predict.in_pytorch(EndToEnd(network, COCO, torch.float32))
    thresholds = contract.VALIDATION_THRESHOLDS
    return metrics.evaluate(dataset, predict.on_dataset(detect, COCO.letterbox, dataset, categories, thresholds))


def assert_the_paths_agree(server: Server, network: YoloNAS, *arguments: object, dataset: Dataset) -> None:
    reference = in_process(network, dataset)
    grpc = measured(server, *arguments, "--model", FP16)["models"][0]
    assert abs(grpc["map_50_95"] - reference.map_50_95) * 100 <= 0.05
    assert grpc["pictures"] == reference.pictures and grpc["objects"] == reference.objects
    with Detector(f"http://{server.http_url}", model=FP16) as detector:  # the same over HTTP
        categories = dataset.categories_of(detector.class_names)
        answers = measure.answers(detector, dataset, categories, contract.VALIDATION_THRESHOLDS, in_flight=4)
        http = metrics.evaluate(dataset, [one for answer in answers for one in answer.predictions])
    assert http.map_50_95 == grpc["map_50_95"]


def test_served_fp16_measures_what_pytorch_measures(server: Server, data: Path, demo_network: YoloNAS) -> None:
    dataset = open_dataset(data)
    assert_the_paths_agree(server, demo_network, "--data", data, dataset=dataset)
    assert 0.3 < in_process(demo_network, dataset).map_50_95 < 0.95


def test_and_on_coco8(server: Server, coco_data: Path, demo_network: YoloNAS) -> None:
    for split in ("train", "val"):
        path = coco_data / "coco8" / "coco8.yaml"
        dataset = open_dataset(path, split=split)
        assert_the_paths_agree(server, demo_network, "--data", path, "--split", split, dataset=dataset)


def test_all_that_is_written(server: Server, data: Path, tmp_path: Path) -> None:
    done = val(
        server,
        *("--data", data, "--model", INT8, "--csv", tmp_path / "classes.csv"),
        *("--save-predictions", tmp_path / "results.json", "--plots", tmp_path / "plots"),
    )
    assert done.returncode == 0, done.stderr
    assert "data, 12 pictures" in done.stdout and "mAP 50-95" in done.stdout and "person" in done.stdout
    dataset = open_dataset(data)
    predictions = json.loads((tmp_path / "results.json").read_text())
    again = metrics.evaluate(dataset, predictions)
    assert f"{again.map_50_95 * 100:.2f}" in done.stdout
    header, *rows = (tmp_path / "classes.csv").read_text().splitlines()
    assert header == "class,objects,map_50_95,map_50,map_75,ar" and len(rows) == 80
    names = sorted(path.name for path in (tmp_path / "plots").iterdir())
    figures = [
        f"{name}.{kind}" for name in ("confusion_matrix", "f1_confidence", "precision_recall") for kind in FIGURES
    ]
    assert names == sorted([*figures, "confusion_matrix.csv", *(f"sheet_{i}.jpg" for i in (1, 2, 3))])
    for path in (tmp_path / "plots").glob("*.[pj][np]g"):
        assert images.decode(path.read_bytes()).std() > 1
    matrix, classes = matching.confusion(dataset, predictions)
    assert matrix[:-1].sum() == again.objects and len(classes) == 80
    assert matrix[:-1, :-1].trace() > 0.7 * again.objects
    curves = matching.f1_over_confidence(dataset, predictions)
    assert set(curves) == {one.name for one in again.classes if one.objects}
    assert max(curve.max() for curve in curves.values()) <= 1 and curves["person"][-1] == 0


def test_two_models_on_the_same_pictures(server: Server, data: Path) -> None:
    report = measured(server, "--data", data, "--compare", FP16, INT8)
    first, second = report["models"]
    assert (first["name"], second["name"]) == (FP16, INT8)
    (difference,) = report["differences"]
    assert (difference["model"], difference["against"]) == (INT8, FP16)
    assert difference["difference"] == pytest.approx(second["map_50_95"] - first["map_50_95"])
    assert difference["low"] <= difference["difference"] <= difference["high"]
    done = val(server, "--data", data, "--compare", FP16, INT8)
    assert f"{INT8} less {FP16}: {difference['difference'] * 100:+.2f} mAP 50-95" in done.stdout


def test_models_are_compared_in_files(server: Server, data: Path, tmp_path: Path) -> None:
    """Three of them, one an M of random weights, with all that one alone gets; and it is one page."""
    m = "yolo_nas_m_int8"
    done = val(
        server,
        *("--data", data, "--limit", 3, "--compare", FP16, INT8, m, "--ignore-unknown-classes"),
        *("--csv", tmp_path / "classes.csv", "--save-predictions", tmp_path / "results.json"),
        *("--plots", tmp_path / "plots", "--report", tmp_path / "report.html"),
    )
    assert done.returncode == 0, done.stderr
    assert f"{INT8} less {FP16}: " in done.stdout and f"{m} less {FP16}: " in done.stdout
    _, *rows = csv.reader((tmp_path / "classes.csv").read_text().splitlines())
    assert {row[0] for row in rows} == {FP16, INT8, m} and len({tuple(row[:2]) for row in rows}) == len(rows)
    for name in (FP16, INT8, m):
        assert json.loads((tmp_path / f"results.{name}.json").read_text()) or name == m
        assert (tmp_path / "plots" / name / "precision_recall.svg").is_file()
    assert {path.name for path in (tmp_path / "plots").glob("comparison.*")} == {f"comparison.{one}" for one in FIGURES}
    page = (tmp_path / "report.html").read_text()
    assert page.count("<h2>") == 3 and page.count("data:image/jpeg") == 3 and page.count("data:image/svg") == 10
    assert not re.search(r'(src|href)="(?!data:)', page) and "<script" not in page
    assert f"{m} less {FP16}: " in page and "3 pictures" in page


def test_two_models_are_compared_on_the_classes_of_both(repository: Path, data: Path, tmp_path: Path) -> None:
    for path in repository.glob("yolo_nas_s_*"):
        shutil.copytree(path, tmp_path / path.name)
    config = tmp_path / INT8 / "config.pbtxt"
    text = config.read_text()
    config.write_text(text.replace('\\"person\\"', '\\"human\\"'))
    assert config.read_text() != text
    with Server(tmp_path, models=[FP16, INT8]) as server:
        refused = val(server, "--data", data, "--compare", FP16, INT8)
        assert refused.returncode == 1 and "unknown to the model: person" in refused.stderr
        report = measured(server, "--data", data, "--compare", FP16, INT8, "--ignore-unknown-classes")
    first, second = ({one["name"] for one in model["classes"]} for model in report["models"])
    assert first == second and len(first) == 79 and "person" not in first
    ours, theirs = (model["map_50_95"] for model in report["models"])
    assert report["differences"][0]["difference"] == pytest.approx(theirs - ours)


def test_an_interrupted_run_goes_on_where_it_stopped(server: Server, data: Path, cache: Path) -> None:
    dataset = open_dataset(data)
    with Detector(server.grpc_url, model=INT8) as detector:
        categories = dataset.categories_of(detector.class_names)

        def run(**options: Any) -> Any:
            return measure.answers(detector, dataset, categories, contract.VALIDATION_THRESHOLDS, 1, **options)

        stopped = run()
        for _ in range(5):
            next(stopped)
        stopped.close()
        (kept,) = cache.iterdir()
        with kept.open("a") as file:
            file.write('{"id": 12, "predic')  # cut off in the middle of a line
        answers = list(run())
        assert sum(answer.resumed for answer in answers) >= 5
        assert [answer.picture.id for answer in answers if not answer.resumed][-1] == 12
        assert list(cache.iterdir()) == [kept]  # until the results are out
        measure.forget(detector, dataset, categories, contract.VALIDATION_THRESHOLDS)
        assert not list(cache.iterdir())
        fresh = list(run(resume=False))
        assert not any(answer.resumed for answer in fresh)
    by_id = {answer.picture.id: answer.predictions for answer in answers}
    assert by_id == {answer.picture.id: answer.predictions for answer in fresh}


def test_a_file_that_cannot_be_written_loses_no_answer(server: Server, data: Path, cache: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    command = [BIN / "nas-client", "val", "--url", server.grpc_url, "--data", data, "--model", INT8, "--csv"]

    def run(path: Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*map(str, command), str(path)], capture_output=True, text=True, timeout=300, check=False)

    done = run(tmp_path / "file" / "classes.csv")
    assert done.returncode == 1 and "mAP 50-95" in done.stdout and "cannot write to" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr and list(cache.iterdir())
    done = run(tmp_path / "classes.csv")
    assert done.returncode == 0 and (tmp_path / "classes.csv").exists() and not list(cache.iterdir())


def test_ctrl_c_keeps_what_was_answered(server: Server, data: Path, cache: Path) -> None:
    command = [BIN / "nas-client", "val", "--url", server.grpc_url, "--data", data, "--model", "yolo_nas_s_fp16"]
    process = subprocess.Popen(list(map(str, [*command, "--in-flight", "1"])), stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not any(file.stat().st_size for file in cache.glob("*.jsonl")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 130 and "interrupted" in errors
    assert [*cache.glob("*.jsonl")]


def test_a_picture_the_server_refuses_is_counted_and_named(server: Server, tmp_path: Path) -> None:
    for path in PICTURES[:2]:
        shutil.copy(path, tmp_path)
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    names = ["broken.jpg", *(path.name for path in PICTURES[:2])]
    content = {
        "images": [{"id": i, "file_name": name} for i, name in enumerate(names, 1)],
        "annotations": [{"id": 1, "image_id": 2, "category_id": 1, "bbox": [0, 0, 100, 100]}],
        "categories": [{"id": 1, "name": "person"}],
    }
    (tmp_path / "truth.json").write_text(json.dumps(content))
    plots = tmp_path / "plots"
    done = val(server, "--data", tmp_path / "truth.json", "--images", tmp_path, "--model", INT8, "--plots", plots)
    assert done.returncode == 1 and "truth, 3 pictures" in done.stdout
    assert "broken.jpg: " in done.stderr and "counted as a picture without detections" in done.stderr
    assert "1 of 3 requests failed" in done.stderr
    assert (plots / "sheet_1.jpg").is_file()  # of the others


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--data", "none.yaml", "--model", INT8], 1, "none.yaml: no such file"),
        (["--data", "DATA", "--model", "none"], 1, "none"),
        (["--data", "DATA", "--model", "yolo_nas_l_int8"], 1, "classes are unknown to the model"),
        (["--data", "DATA", "--compare", FP16, INT8, "--model", INT8], 2, "takes no --model"),
        (["--data", "DATA", "--compare", FP16, INT8, FP16], 2, "the same model twice"),
        (["--data", "DATA", FP16], 2, "yolo_nas_s_fp16: models are named by --model"),
    ],
)
def test_messages(arguments: list[str], code: int, message: str, server: Server, data: Path) -> None:
    done = val(server, *(str(data) if word == "DATA" else word for word in arguments))
    assert done.returncode == code and message in " ".join(done.stderr.split()), done.stderr


def test_limit(server: Server, data: Path) -> None:
    report = measured(server, "--data", data, "--model", INT8, "--limit", 3)
    assert report["pictures"] == 3 and report["protocol"] == {
        "score_threshold": 0.01,
        "iou_threshold": 0.7,
        "max_detections": 300,
    }


def test_a_client_without_the_extra_says_what_to_install(server: Server, data: Path, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['faster_coco_eval'] = None\n")
    done = val(server, "--data", data, "--model", INT8, env=os.environ | {"PYTHONPATH": str(tmp_path)})
    assert done.returncode == 1 and "pip install 'nas-triton[val]'" in done.stderr
