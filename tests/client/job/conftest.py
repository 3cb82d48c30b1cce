from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import pytest

from support.samples import SAMPLES


@pytest.fixture
def pictures(tmp_path: Path) -> Callable[[int], Path]:
    """A folder of so many small ones with a bus in each, half of them in a folder of it, and one that is none."""

    def make(count: int) -> Path:
        folder = tmp_path / "pictures"
        (folder / "more").mkdir(parents=True)
        small = cv2.resize(cv2.imread(str(SAMPLES / "bus.jpg")), (240, 320))
        data = cv2.imencode(".jpg", small)[1].tobytes()
        for i in range(count - 1):
            (folder / ("more" if i % 2 else "") / f"{i:06d}.jpg").write_bytes(data)
        (folder / "broken.jpg").write_bytes(b"no picture")
        return folder

    return make
