"""Boxes and captions in the picture, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from nas_client import Detections
from nas_client.output import palette
from nas_client.output.draw import annotate
from numpy.typing import NDArray

GREY = np.full((200, 300, 3), 114, np.uint8)


def found(*rows: tuple[tuple[float, float, float, float], int, str]) -> Detections:
    boxes = np.array([box for box, _, _ in rows], np.float32).reshape(-1, 4)
    scores = np.linspace(0.9, 0.5, len(rows), dtype=np.float32)
    labels = np.array([label for _, label, _ in rows], np.int32)
    return Detections(boxes, scores, labels, tuple(name for _, _, name in rows))


def changed(drawn: NDArray[np.uint8]) -> NDArray[np.bool_]:
    mask: NDArray[np.bool_] = (drawn != GREY).any(axis=2)
    return mask


def test_a_box_is_drawn_on_its_edges_with_a_caption_above_it() -> None:
    before = GREY.copy()
    drawn = changed(annotate(GREY, found(((100, 80, 200, 160), 0, "cat"))))
    assert (GREY == before).all()
    assert (
        drawn[80, 100:201].all() and drawn[160, 100:201].all() and drawn[80:161, 100].all() and drawn[80:161, 200].all()
    )
    assert not drawn[90:150, 110:190].any() and not drawn[170:].any() and not drawn[:, 210:].any()
    assert drawn[70:79, 100:120].all(axis=1).any()


@pytest.mark.parametrize("box", [(0, 0, 299, 199), (250, 0, 310, 50), (-20, 190, 40, 230)])
def test_a_caption_stays_in_the_picture(box: tuple[float, float, float, float]) -> None:
    alone = changed(annotate(GREY, found((box, 3, ""))))
    named = changed(annotate(GREY, found((box, 3, "a long name of a class"))))
    assert named.sum() - alone.sum() > 500


def test_nothing_found_changes_nothing() -> None:
    assert not changed(annotate(GREY, found())).any()


def test_classes_have_colours_of_their_own_and_the_best_is_on_top() -> None:
    box = (50.0, 80.0, 150.0, 160.0)
    colours = [tuple(annotate(GREY, found((box, label, "x")))[120, 50].tolist()) for label in range(80)]
    assert len(set(colours)) > 70
    both = annotate(GREY, found((box, 0, "best"), (box, 1, "worse")))
    assert np.abs(both[120, 50].astype(int) - colours[0]).max() < 12  # antialiased over the other


def test_letters_that_the_font_lacks_are_marked() -> None:
    box = (50.0, 80.0, 150.0, 160.0)
    assert (annotate(GREY, found((box, 0, "Müll"))) == annotate(GREY, found((box, 0, "M?ll")))).all()


def test_a_caption_gives_way_to_that_of_a_better_detection() -> None:
    """Boxes on each other: the captions of all can be read, the best's as if it were alone."""
    boxes = [(100.0 + i, 60.0 + i, 220.0, 160.0) for i in range(5)]
    best = annotate(GREY, found((boxes[0], 0, "best")))
    together = annotate(GREY, found(*((box, label, "best") for label, box in enumerate(boxes))))
    above = np.s_[46:58, 101:150]
    assert (together[above] == best[above]).all()
    for label in range(5):
        filled = (together == np.array(palette.colour(label), np.uint8)).all(axis=2)
        assert filled.sum() > 300, label  # more than its lines


def test_a_sheet_of_truth_tells_no_scores() -> None:
    box = (50.0, 80.0, 150.0, 160.0)
    without = changed(annotate(GREY, found((box, 0, "cat")), scores=False))
    assert without.sum() < changed(annotate(GREY, found((box, 0, "cat")))).sum()


def test_colours_are_far_apart_and_captions_can_be_read() -> None:
    colours = np.array([palette.colour(label) for label in range(80)], float)
    apart = np.linalg.norm(colours[:, None] - colours[None], axis=2) + 999 * np.eye(80)
    assert apart[:12, :12].min() > 80 and apart.min() > 20
    for label in range(80):
        weights = (0.299, 0.587, 0.114)
        assert abs(np.dot(palette.colour(label), weights) - np.dot(palette.ink(label), weights)) > 100
    assert palette.colour(85) == palette.colour(5)
