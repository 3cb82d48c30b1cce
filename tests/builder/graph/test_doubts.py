from __future__ import annotations

from typing import Any

import pytest
from nas_build.graph.doubts import doubts


def measured(detections: int, loss: tuple[float, float, float] | None = None) -> dict[str, Any]:
    accuracy = dict(zip(("loss", "loss_low", "loss_high"), loss, strict=True)) if loss else None
    int8 = {"int8": {"accuracy": accuracy}} if accuracy else {}
    return {"agreement": {"pictures": 4, "detections": detections}, **int8}


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        (measured(10), []),
        (measured(10, (5.25, 0.0, 7.71)), []),  # of thirteen objects: it may be nothing
        (measured(300), []),
        (measured(0), ["finds nothing in the 4 pictures"]),
        (measured(1200), ["finds 300 objects in a picture"]),
        (measured(10, (8.4, 5.34, 10.59)), ["int8 loses 8.4 mAP points against float32 (95 % interval 5.34 to 10.59)"]),
        (measured(0, (20.0, 15.0, 25.0)), ["finds nothing", "int8 loses 20 mAP"]),
    ],
)
def test_what_is_doubted(what: dict[str, Any], expected: list[str]) -> None:
    found = doubts(what)
    assert [part in doubt.message for doubt, part in zip(found, expected, strict=True)] == [True] * len(expected)
    assert all(doubt.options for doubt in found)


def test_nothing_was_measured_of_int8() -> None:
    assert doubts({**measured(10), "int8": {"method": "max"}}) == []


def test_a_network_that_does_not_know_the_labels() -> None:
    """What float32 finds is no judge of float32."""
    accuracy = {"map_50_95_float32": 0.4, "loss": 0.0, "loss_low": -0.1, "loss_high": 0.1}
    (doubt,) = doubts({**measured(10), "int8": {"truth": "labels", "accuracy": accuracy}})
    assert "float32 itself reaches 0.4 mAP on the labelled pictures" in doubt.message
    assert doubts({**measured(10), "int8": {"truth": "float32", "accuracy": accuracy}}) == []
