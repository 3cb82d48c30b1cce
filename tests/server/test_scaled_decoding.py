"""JPEGs that are larger than the canvas, decoded to a part of their size."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from google.protobuf import text_format
from nas_client import Detector, ImageRefused
from nas_serve import Server
from tritonclient.grpc import model_config_pb2

from support.repository import copy_of
from support.samples import SAMPLES

NAME = "yolo_nas_s_int8"


def test_boxes_are_those_of_the_whole_picture(server: Server, repository: Path, tmp_path: Path) -> None:
    """bus.jpg at twice its size is 3.4 times as large as the canvas: half of it is decoded.

    The limit of pixels is that of the whole picture.
    """
    config = copy_of(repository, tmp_path) / f"{NAME}_preprocess" / "config.pbtxt"
    parsed = text_format.Parse(config.read_text(), model_config_pb2.ModelConfig())
    assert parsed.parameters["scaled_decoding"].string_value == "false"
    parsed.parameters["scaled_decoding"].string_value = "true"
    parsed.parameters["max_pixels"].string_value = "4000000"
    config.write_text(text_format.MessageToString(parsed))
    bus = cv2.imread(str(SAMPLES / "bus.jpg"))
    large, too_large = (
        cv2.imencode(".jpg", cv2.resize(bus, None, fx=by, fy=by, interpolation=cv2.INTER_CUBIC))[1].tobytes()
        for by in (2, 3)
    )
    with Detector(server.grpc_url, model=NAME) as usual:
        whole = usual.detect(large, score_threshold=0.5)
    with Server(tmp_path) as scaling, Detector(scaling.grpc_url, model=NAME) as detector:
        half = detector.detect(large, score_threshold=0.5)
        with pytest.raises(ImageRefused, match="more pixels than the limit"):
            detector.detect(too_large)
    assert list(half.names) == list(whole.names) and "bus" in half.names
    assert not np.array_equal(half.scores, whole.scores)
    np.testing.assert_allclose(half.scores, whole.scores, atol=0.1)
    np.testing.assert_allclose(half.boxes_xyxy, whole.boxes_xyxy, atol=40)  # of 1620 x 2160
