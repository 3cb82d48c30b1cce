"""What a picture can be given as."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from nas_client.detection.image_input import batches, load
from numpy.typing import NDArray

from support.web import serving_files


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


def test_urls(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"abc")
    with serving_files(tmp_path) as url:
        assert load(f"{url}/a.jpg") == b"abc"
        with pytest.raises(OSError, match="cannot download: Client error '404"):
            load(f"{url}/b.jpg")


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "CMYK"])
def test_pictures_of_pil_become_upright_rgb(mode: str) -> None:
    image = PIL.Image.new("RGB", (6, 4), (255, 0, 0)).convert(mode)
    frame = load(image)
    assert isinstance(frame, np.ndarray) and frame.shape == (4, 6, 3) and frame.dtype == np.uint8
    if mode != "L":
        np.testing.assert_allclose(frame[0, 0], [255, 0, 0], atol=2)
    turned = PIL.Image.new("RGB", (6, 4))
    turned.getexif()[0x0112] = 6
    assert load(turned).shape == (6, 4, 3)  # type: ignore[union-attr]


@pytest.mark.parametrize("thing", [None, 3, {"a": 1}, bytearray(b"abc")])
def test_what_is_no_picture_is_named(thing: Any) -> None:
    with pytest.raises(TypeError, match=f"expected a path, a URL, .*, got {type(thing).__name__}"):
        load(thing)


def test_a_batch_is_of_one_kind_in_order() -> None:
    small, large = np.zeros((2, 3, 3), np.uint8), np.zeros((4, 3, 3), np.uint8)
    together = [b"a", b"b", b"c", small, small, large, b"d"]
    found = list(batches(together, 2))
    assert [len(batch) for batch in found] == [2, 1, 2, 1, 1]
    assert all(one is other for one, other in zip((x for batch in found for x in batch), together, strict=True))
