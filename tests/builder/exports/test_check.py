from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from nas_build.errors import DisagreementError
from nas_build.exports import FORMATS, check, get, run
from nas_build.exports.options import ExportOptions
from nas_build.exports.plain import Plain
from nas_build.graph.export import EndToEnd
from nas_build.progress import SILENT
from nas_build.yolo_nas import network
from nas_build.yolo_nas.network import YoloNAS
from nas_ensembles import contract
from nas_ensembles.pipeline import Candidates
from nas_eval.coco_names import COCO_NAMES

from support.networks import QUARTER, canvas_of
from support.samples import PICTURES

FOUND = Candidates(
    np.array([[10, 10, 60, 60], [100, 100, 150, 160]], np.float32),
    np.array([0.9, 0.5], np.float32),
    np.array([0, 2], np.int32),
)
THRESHOLDS = contract.Thresholds()
_TWO = ("onnx", "sg-flat")  # NMS outside the file, and in it
_OTHERS = [name for name in FORMATS if name not in _TWO]


@pytest.fixture(scope="module")
def reference(demo_network: YoloNAS) -> EndToEnd:
    return EndToEnd(demo_network, QUARTER, torch.float64)


def changed(**parts: object) -> Candidates:
    return FOUND._replace(**{name: np.array(value, getattr(FOUND, name).dtype) for name, value in parts.items()})


@pytest.mark.parametrize("name", [*_TWO, *(pytest.param(one, marks=pytest.mark.nightly) for one in _OTHERS)])
def test_a_weight_that_is_another_is_noticed(name: str, demo_network: YoloNAS, reference: EndToEnd) -> None:
    other = network.build("s", 80)
    other.load_state_dict(demo_network.state_dict())
    with torch.no_grad():
        for head in (other.heads.head1, other.heads.head2, other.heads.head3):
            head.cls_pred.bias += 0.05
    form = get(name)(QUARTER, COCO_NAMES, ExportOptions("x", name))
    canvases = [canvas_of(path, form.settings.letterbox) for path in PICTURES]
    with pytest.raises(DisagreementError, match="the exported file disagrees with PyTorch"):
        check.check(form.build(other.eval(), "s").SerializeToString(), form, reference, canvases, SILENT)


@pytest.mark.parametrize(
    "name", [_TWO[0], *(pytest.param(one, marks=pytest.mark.nightly) for one in (_TWO[1], "frigate"))]
)
def test_a_network_that_finds_nothing_is_compared_all_the_same(name: str) -> None:
    torch.manual_seed(1)
    quiet, other = network.build("s", 3).eval(), network.build("s", 3).eval()
    for one in (quiet, other):
        for head in (one.heads.head1, one.heads.head2, one.heads.head3):
            torch.nn.init.constant_(head.cls_pred.bias, -5)
    form = get(name)(QUARTER, "abc", ExportOptions("x", name))
    canvases = [canvas_of(path, form.settings.letterbox) for path in PICTURES[:2]]
    silent = EndToEnd(quiet, QUARTER, torch.float64)
    file, another = (form.build(one, "s").SerializeToString() for one in (quiet, other))
    assert not len(check.in_pytorch(silent, canvases[0], form, form.settings.thresholds).scores)
    agreement = check.check(file, form, silent, canvases, SILENT)
    assert agreement.detections >= 1 and agreement.pictures == 2
    with pytest.raises(DisagreementError):
        check.check(another, form, silent, canvases, SILENT)


def test_the_same_is_the_same() -> None:
    assert check.matched(FOUND, FOUND, THRESHOLDS) == [(0, 0), (0, 0)]
    swapped = Candidates(*(tensor[::-1] for tensor in FOUND))
    assert check.matched(FOUND, swapped, THRESHOLDS) == [(0, 0), (0, 0)]


@pytest.mark.parametrize(
    ("got", "message"),
    [
        (changed(labels=[0, 3]), "does not have label 2 with score 0.5000"),
        (changed(scores=[0.9, 0.45]), "does not have label 2"),
        (changed(scores=[0.9, np.nan]), "does not have label 2"),
        (changed(boxes=[[10, 10, 60, 60], [100, 100, 150, 161]]), "does not have label 2"),
        (Candidates(FOUND.boxes[:1], FOUND.scores[:1], FOUND.labels[:1]), "does not have label 2"),
    ],
)
def test_differences_are_named(got: Candidates, message: str) -> None:
    with pytest.raises(DisagreementError, match=message):
        check.matched(FOUND, got, THRESHOLDS)


def test_what_pytorch_has_not_is_named() -> None:
    fewer = Candidates(FOUND.boxes[:1], FOUND.scores[:1], FOUND.labels[:1])
    with pytest.raises(DisagreementError, match="it alone has label 2"):
        check.matched(fewer, FOUND, THRESHOLDS)


def test_at_the_threshold_either_may_have_it() -> None:
    border = changed(scores=[0.9, 0.25001])
    fewer = Candidates(FOUND.boxes[:1], FOUND.scores[:1], FOUND.labels[:1])
    assert len(check.matched(border, fewer, THRESHOLDS)) == len(check.matched(fewer, border, THRESHOLDS)) == 1


def test_a_file_that_differs_is_not_written(
    quarter_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The graph gets swapped channels."""
    monkeypatch.setattr(Plain, "feed", lambda _, canvas: canvas[::-1].astype(np.float32) / np.float32(255))
    with pytest.raises(DisagreementError, match="Nothing was written"):
        run.export(ExportOptions(quarter_checkpoint, "onnx", output=tmp_path / "wrong.onnx"))
    assert not list(tmp_path.iterdir())
