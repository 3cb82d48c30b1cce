"""The models of a server, and which one detects."""

from __future__ import annotations

import pytest
from nas_client import Detector, ModelUnavailable
from nas_serve import Server

from support.samples import SAMPLES

BUS = SAMPLES / "bus.jpg"


def test_models(server: Server) -> None:
    listed = {model.name: model for model in Detector(server.grpc_url).models()}
    assert len(listed) == 30 and {m.state for m in listed.values()} == {"READY"}
    assert sum(model.detects for model in listed.values()) == 6
    assert listed["yolo_nas_l_fp16"].parameters["class_names"] == ["bolt", "nut", "schräge Mutter"]


def test_an_unknown_model_is_answered_with_what_there_is(server: Server) -> None:
    with pytest.raises(ModelUnavailable, match="nope: no such model on .*It serves yolo_nas_l_fp16, .*yolo_nas_s_int8"):
        Detector(server.grpc_url, model="nope").detect(BUS)
    with pytest.raises(ModelUnavailable, match="nope: no such model"):
        Detector(server.http_url, model="nope", protocol="http").detect(BUS)


def test_a_composing_model_is_no_model_to_detect_with(server: Server) -> None:
    with pytest.raises(ModelUnavailable, match="is no YOLO-NAS ensemble"):
        Detector(server.grpc_url, model="yolo_nas_s_int8_engine").detect(BUS)


def test_several_models_want_a_choice(server: Server) -> None:
    with pytest.raises(ModelUnavailable, match="serves 6 models: .* Choose one with --model"):
        Detector(server.grpc_url).detect(BUS)
