"""What a picture can be given as."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nas_client.detection.image_input import batches, load
from numpy.typing import NDArray


@pytest.mark.parametrize("array", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)])
def test_arrays_that_are_no_pictures(array: NDArray[Any]) -> None:
    with pytest.raises(ValueError, match=r"expected an RGB picture \(H, W, 3\) uint8"):
        load(array)


def test_files_bytes_and_frames(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(b"abc")
    assert load(path) == load(str(path)) == load(b"abc") == b"abc"
    frame = np.zeros((2, 3, 3), np.uint8)
    assert load(frame) is frame
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "b.jpg")


def test_a_batch_is_of_one_kind_in_order() -> None:
    small, large = np.zeros((2, 3, 3), np.uint8), np.zeros((4, 3, 3), np.uint8)
    together = [b"a", b"b", b"c", small, small, large, b"d"]
    found = list(batches(together, 2))
    assert [len(batch) for batch in found] == [2, 1, 2, 1, 1]
    assert all(one is other for one, other in zip((x for batch in found for x in batch), together, strict=True))
