"""The engine that answers at once, in a real Triton."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest
from nas_client import Detector
from nas_ensembles import contract
from nas_serve import Server

from support.samples import PICTURES, ROOT, SAMPLES

pytestmark = pytest.mark.nightly


def test_answers_what_the_graph_finds_in_bus_jpg_whatever_it_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    name = importlib.import_module("recorded").build(tmp_path)
    engine = contract.stage_name(name, "engine")
    outputs = [tensor.name for tensor in contract.CANDIDATE_TENSORS]
    with Server(tmp_path) as server, Detector(server.grpc_url) as detector:
        assert sorted(set(detector.detect(SAMPLES / "bus.jpg").names)) == ["bus", "dining table", "person"]
        noise = np.random.default_rng(1).integers(0, 256, (3, 3, 640, 640), np.uint8)
        one = detector.transport.infer(engine, {contract.IMAGES.name: noise[:1]}, outputs)
        three = detector.transport.infer(engine, {contract.IMAGES.name: noise}, outputs)
        for output in outputs:
            np.testing.assert_array_equal(three[output], one[output].repeat(3, axis=0))
        assert (np.diff(one[contract.CANDIDATE_SCORES.name]) <= 0).all()
        list(detector.detect_many(list(PICTURES) * 16, in_flight=16))
        statistics = detector.transport.statistics(engine)
    # The picture, four canvases and the others; the supervisor asks, too. Those that wait share an execution.
    assert int(statistics["inference_count"]) >= 1 + 4 + len(PICTURES) * 16 > int(statistics["execution_count"])
