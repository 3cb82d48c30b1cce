from __future__ import annotations

from collections.abc import Callable

import onnx
import pytest
from nas_build.graph.export import Exported
from nas_build.int8.held_out import HeldOut
from nas_build.int8.qdq import insert_qdq
from nas_build.int8.quantizer import Quantizer
from nas_build.int8.rounding import nearest
from nas_build.int8.schemes import UNSIGNED, Scheme


@pytest.fixture(scope="module")
def quantizer(quantizer_of: Callable[[Scheme], Quantizer]) -> Quantizer:
    return quantizer_of(UNSIGNED)


def without_tails(quantizer: Quantizer) -> onnx.ModelProto:
    return quantizer.graph(quantizer.grids("percentile-99.99"))


def test_what_float32_finds_is_the_truth_where_there_are_no_labels(held_out: HeldOut, exported: Exported) -> None:
    assert not held_out.labelled and held_out.objects >= 10
    accuracy = held_out.accuracy(exported.graph)
    assert accuracy.float32 == pytest.approx(100) and accuracy.loss < 0.5
    assert held_out.disturbance(exported.graph) < 0.01


def test_disturbance_and_loss_follow_the_damage(held_out: HeldOut, exported: Exported, quantizer: Quantizer) -> None:
    good = quantizer.graph(quantizer.grids("percentile-99.999"))
    graphs = [exported.graph, good, without_tails(quantizer), quantizer.graph(quantizer.grids("entropy"))]
    disturbances = [held_out.disturbance(graph) for graph in graphs]
    assert disturbances == sorted(disturbances) and disturbances[1] > 5 * disturbances[0]
    losses = [held_out.accuracy(graph).loss for graph in (good, without_tails(quantizer))]
    assert losses[0] < losses[1]
    low, high = held_out.interval(held_out.accuracy(without_tails(quantizer)))
    assert low <= losses[1] <= high


def test_rounding_by_second_order_and_chosen_ranges_halve_what_plain_max_calibration_does(
    held_out: HeldOut, exported: Exported, quantizer: Quantizer
) -> None:
    widest = quantizer.grids("max")
    plain = insert_qdq(
        exported.graph, widest, {name: nearest(quantizer.weights_of(name), UNSIGNED.pair_limit) for name in widest}
    )
    chosen = quantizer.graph(quantizer.grids("percentile-99.999"))
    assert held_out.disturbance(chosen) < 0.6 * held_out.disturbance(plain)
    assert held_out.accuracy(chosen).loss < 0.5 * held_out.accuracy(plain).loss
