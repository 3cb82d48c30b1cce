"""Which detection counts for which object, and files that show it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from matplotlib.figure import Figure
from nas_client.validation import plots
from nas_eval import metrics
from nas_eval.dataset import Dataset
from nas_eval.metrics import Prediction
from nas_eval.open_dataset import open_dataset

NAMES = ("bolt", "nut", "washer")


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """Two pictures: a bolt and a nut; another bolt. No washer anywhere."""
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for name, labels in (("a", "0 0.25 0.5 0.2 0.2\n1 0.75 0.5 0.2 0.2\n"), ("b", "0 0.5 0.5 0.4 0.4\n")):
        cv2.imwrite(str(tmp_path / f"images/{name}.png"), np.full((100, 200, 3), 114, np.uint8))
        (tmp_path / f"labels/{name}.txt").write_text(labels)
    (tmp_path / "data.yaml").write_text(f"path: {tmp_path}\nval: images\nnames: {list(NAMES)}\n")
    return open_dataset(tmp_path / "data.yaml")


def prediction(dataset: Dataset, picture: str, name: str, score: float, xywh: tuple[float, ...]) -> Prediction:
    category = next(id for id, known in dataset.class_names.items() if known == name)
    picture_id = next(one.id for one in dataset.pictures if one.path.stem == picture)
    return {"image_id": picture_id, "category_id": category, "bbox": list(xywh), "score": score}


@pytest.fixture
def predictions(dataset: Dataset) -> list[Prediction]:
    """The first bolt found, twice; the nut taken for a washer; the second bolt missed; one too unsure to count."""
    return [
        prediction(dataset, "a", "bolt", 0.9, (30, 40, 40, 20)),
        prediction(dataset, "a", "bolt", 0.8, (31, 40, 40, 20)),
        prediction(dataset, "a", "washer", 0.7, (130, 40, 40, 20)),
        prediction(dataset, "b", "bolt", 0.1, (60, 30, 80, 40)),
    ]


def test_confusion(dataset: Dataset, predictions: list[Prediction]) -> None:
    matrix, names = plots.confusion(dataset, predictions)
    assert tuple(names) == NAMES
    #                          bolt nut washer nothing
    assert matrix.tolist() == [[1, 0, 0, 1], [0, 0, 1, 0], [0, 0, 0, 0], [1, 0, 0, 0]]


def test_f1_counts_what_scores_at_least_the_confidence(dataset: Dataset, predictions: list[Prediction]) -> None:
    curves = plots.f1_over_confidence(dataset, predictions)
    assert curves.keys() == {"bolt", "nut"}  # of washers there are none
    bolt = curves["bolt"]
    assert len(bolt) == 201 and (curves["nut"] == 0).all()
    assert bolt[0] == pytest.approx(2 * 2 / (3 + 2))  # two right ones of three, two objects
    assert bolt[100] == pytest.approx(2 * 1 / (2 + 2)) and bolt[170] == pytest.approx(2 * 1 / (1 + 2))
    assert bolt[-1] == 0


def test_all_files_are_written_and_name_what_they_show(
    dataset: Dataset, predictions: list[Prediction], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Any] = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (drawn.append(self), save(self, *a, **k)))
    folder = tmp_path / "new" / "plots"
    files = plots.save(folder, dataset, predictions, metrics.evaluate(dataset, predictions))
    assert [path.name for path in files] == [
        *("precision_recall.png", "f1_confidence.png", "confusion_matrix.png"),
        "sheet_1.jpg",
    ]
    for path in files:
        picture = cv2.imread(str(path))
        assert picture is not None and picture.std() > 5
    recall, f1, matrix = (figure.axes[0] for figure in drawn)
    for axes in (recall, f1):
        named = [text.get_text() for text in axes.get_legend().get_texts()]
        assert named == ["bolt", "nut", "mean of 2 classes"]
    assert [label.get_text() for label in matrix.get_xticklabels()] == [*NAMES, "nothing"]


def test_a_sheet_has_the_truth_on_the_left(dataset: Dataset, tmp_path: Path) -> None:
    """Of pictures that were answered; without predictions the right half stays as it was."""
    b = next(one.id for one in dataset.pictures if one.path.stem == "b")
    *_, sheet = plots.save(tmp_path / "out", dataset, [], metrics.evaluate(dataset, []), failed=[b])
    picture = cv2.imread(str(sheet)).astype(int)
    assert picture.shape == (320, 1280, 3)
    left, right = picture[:, :640], picture[:, 640:]
    assert np.abs(left - 114).max() > 50 and np.abs(right - 114).max() < 10
