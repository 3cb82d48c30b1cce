"""Which detection counts for which object, and files that show it."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
from matplotlib.figure import Figure
from nas_client.validation import figures, matching, plots
from nas_client.validation.figures import Subject
from nas_client.validation.sheets import sheets
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
    matrix, names = matching.confusion(dataset, predictions)
    assert tuple(names) == NAMES
    #                          bolt nut washer nothing
    assert matrix.tolist() == [[1, 0, 0, 1], [0, 0, 1, 0], [0, 0, 0, 0], [1, 0, 0, 0]]


def test_f1_counts_what_scores_at_least_the_confidence(dataset: Dataset, predictions: list[Prediction]) -> None:
    curves = matching.f1_over_confidence(dataset, predictions)
    assert curves.keys() == {"bolt", "nut"}  # of washers there are none
    bolt = curves["bolt"]
    assert len(bolt) == 201 and (curves["nut"] == 0).all()
    assert bolt[0] == pytest.approx(2 * 2 / (3 + 2))  # two right ones of three, two objects
    assert bolt[100] == pytest.approx(2 * 1 / (2 + 2)) and bolt[170] == pytest.approx(2 * 1 / (1 + 2))
    assert bolt[-1] == 0


SUBJECT = Subject("the model", "the data", 2, "2026-11-25")


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Figures, once each, in the order in which they were saved."""
    found: list[Any] = []
    save = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *a, **k: (self in found or found.append(self), save(self, *a, **k))
    )
    return found


def names(axes: Any) -> list[str]:
    return [text.get_text() for text in axes.get_legend().get_texts()]


def test_all_files_are_written_and_name_what_they_show(
    dataset: Dataset, predictions: list[Prediction], tmp_path: Path, drawn: list[Any]
) -> None:
    folder = tmp_path / "new" / "plots"
    plots.write(folder, plots.draw(dataset, predictions, metrics.evaluate(dataset, predictions), SUBJECT))
    three = ("confusion_matrix", "f1_confidence", "precision_recall")
    expected = [f"{name}.{kind}" for name in three for kind in ("pdf", "png", "svg")]
    assert sorted(path.name for path in folder.iterdir()) == sorted([*expected, "confusion_matrix.csv", "sheet_1.jpg"])
    for path in folder.iterdir():
        if path.suffix in (".png", ".jpg"):
            picture = cv2.imread(str(path))
            assert picture is not None and picture.std() > 5
    assert (folder / "f1_confidence.pdf").read_bytes().startswith(b"%PDF")
    assert ElementTree.parse(folder / "f1_confidence.svg").getroot().tag.endswith("svg")
    rows = list(csv.reader((folder / "confusion_matrix.csv").read_text().splitlines()))
    assert rows[0] == ["true \\ predicted", *NAMES, "nothing"] and rows[1] == ["bolt", "1", "0", "0", "1"]
    recall, f1, matrix = (figure.axes[0] for figure in drawn)
    for axes in (recall, f1):
        assert names(axes) == ["bolt", "nut", "mean of 2 classes"]
        assert axes.get_legend().get_window_extent().x0 >= axes.get_window_extent().x1  # beside them
    assert [label.get_text() for label in matrix.get_xticklabels()] == [*NAMES, "nothing"]
    for axes in (recall, f1, matrix):
        assert axes.get_title().endswith("the model on the data, 2 pictures, 2026-11-25")


def test_every_curve_has_a_name_and_the_mean_is_of_all(drawn: list[Any]) -> None:
    curves = {f"class {i}": np.full(5, i / 100) for i in range(30)}
    figures.curves("f1", SUBJECT, ("confidence", "F1"), np.linspace(0, 1, 5), curves)
    (axes,) = drawn[0].axes
    assert names(axes) == [f"class {i}" for i in range(10)] + ["mean of 30 classes"]
    assert len(axes.lines) == 11 and axes.lines[-1].get_ydata()[0] == pytest.approx(0.145)
    assert "the 10 classes with most objects" in axes.get_title()


def test_a_matrix_of_many_classes_shows_the_most_frequent_with_numbers(drawn: list[Any]) -> None:
    """Classes 0 to 39 have as many objects; 39's are all missed, and 40 is predicted only."""
    matrix = np.diag([*range(40), 0, 0])
    matrix[39, 39], matrix[39, -1], matrix[-1, 40] = 0, 100, 50
    files = figures.confusion(matrix, [f"class {i}" for i in range(41)], SUBJECT)
    axes, bar = drawn[0].axes
    shown = [label.get_text() for label in axes.get_yticklabels()]
    assert shown == [f"class {i}" for i in range(21, 41)] + ["nothing"]
    shares = axes.images[0].get_array()
    assert shares[0, 0] == 1 and shares[18, 18] == 0 and not np.ma.is_masked(shares[18, 18])
    assert shares.mask[19].all() and not shares.mask[:19].any()  # no object of class 40
    assert "100" in {text.get_text() for text in axes.texts} and "share" in bar.get_ylabel()
    assert "20 of 40 classes" in axes.get_title() and "grey: no object" in axes.get_title()
    assert len(files["confusion_matrix.csv"].splitlines()) == 43


def test_models_side_by_side(dataset: Dataset, predictions: list[Prediction], drawn: list[Any]) -> None:
    measured = {"first": metrics.evaluate(dataset, predictions), "second": metrics.evaluate(dataset, [])}
    figures.comparison(measured, SUBJECT)
    bars, curves = drawn[0].axes
    assert names(curves) == ["first", "second"] and len(curves.lines) == 2
    assert bars.containers[0][0].get_width() == pytest.approx(100 * measured["first"].map_50_95)
    assert {text.get_text() for text in bars.texts} >= {"-", "0.0"}  # no small object; none found


def test_figures_are_the_same_bytes_again(dataset: Dataset, predictions: list[Prediction]) -> None:
    measured = metrics.evaluate(dataset, predictions)
    assert plots.draw(dataset, predictions, measured, SUBJECT) == plots.draw(dataset, predictions, measured, SUBJECT)


def test_a_sheet_has_the_truth_on_the_left(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of pictures that were answered; without predictions the right half stays as it was, under its heading."""
    said: list[str] = []
    put = cv2.putText
    monkeypatch.setattr(cv2, "putText", lambda canvas, text, *rest: (said.append(text), put(canvas, text, *rest))[1])
    b = next(one.id for one in dataset.pictures if one.path.stem == "b")
    (sheet,) = sheets(dataset, [], "the model", failed=[b]).values()
    picture = cv2.imdecode(np.frombuffer(sheet, np.uint8), cv2.IMREAD_COLOR).astype(int)
    assert picture.shape == (28 + 320, 1280, 3)
    left, right = picture[36:, :640], picture[36:, 640:]
    assert np.abs(left - 114).max() > 50 and np.abs(right - 114).max() < 10
    assert (picture[:20].mean(axis=(1, 2)) > 200).all() and picture[:28, :640].min() < 100
    assert said[0] == "a.png: truth, 2 objects" and "the model: 0 that score above 0.25" in said
    assert {"bolt", "nut"} <= set(said)  # no scores on the truth
