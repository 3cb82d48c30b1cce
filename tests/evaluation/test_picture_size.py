"""What the header says is what decoding gives."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from nas_ensembles import images
from nas_eval.picture_size import size_wh

from support.samples import PICTURES

CORPUS = Path(__file__).parents[1] / "fuzz" / "corpus" / "picture"
RGB, RGBA = (np.random.default_rng(0).integers(0, 256, (20, 30, n), np.uint8) for n in (3, 4))
QUARTER_TURNED = range(5, 9)  # orientations that swap the sides


def encoded(suffix: str, image: np.ndarray = RGB, *options: int) -> bytes:  # type: ignore[type-arg]
    return cv2.imencode(suffix, image, options)[1].tobytes()


def exif(orientation: int, order: str) -> bytes:
    header = b"II*\0" if order == "<" else b"MM\0*"
    return header + struct.pack(f"{order}IHHHIHHI", 8, 1, 0x112, 3, 1, orientation, 0, 0)


def jpeg(orientation: int, order: str = ">") -> bytes:
    plain, payload = encoded(".jpg"), b"Exif\0\0" + exif(orientation, order)
    return plain[:2] + b"\xff\xe1" + struct.pack(">H", len(payload) + 2) + payload + plain[2:]


def png(orientation: int, before: bytes) -> bytes:
    plain, chunk = encoded(".png"), b"eXIf" + exif(orientation, ">")
    at = plain.index(before) - 4
    return plain[:at] + struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) + plain[at:]


def webp(orientation: int) -> bytes:
    """Extended, with the metadata that decoding does not look at."""
    stream = encoded(".webp")[12:]
    extended = b"VP8X" + struct.pack("<I", 10) + b"\x08\0\0\0" + b"\x1d\0\0" + b"\x13\0\0"
    data = exif(orientation, "<")
    chunks = b"WEBP" + extended + stream + b"EXIF" + struct.pack("<I", len(data)) + data
    return b"RIFF" + struct.pack("<I", len(chunks)) + chunks


FILES = {
    **{path.name: path.read_bytes() for path in (*PICTURES, *CORPUS.iterdir())},
    **{f"{order}{n}.jpg": jpeg(n, order) for n in range(10) for order in "<>"},
    **{f"{n}{before.decode()}.png": png(n, before) for n in range(10) for before in (b"IDAT", b"IEND")},
    **{f"{n}.webp": webp(n) for n in range(1, 9)},
    "grey.png": encoded(".png", RGB[..., 0]),
    "alpha.png": encoded(".png", RGBA),
    "deep.png": encoded(".png", RGB.astype(np.uint16) * 257),
    "lossy.webp": encoded(".webp", RGB, cv2.IMWRITE_WEBP_QUALITY, 80),
    "lossless.webp": encoded(".webp", RGB, cv2.IMWRITE_WEBP_QUALITY, 101),
    "lossy alpha.webp": encoded(".webp", RGBA, cv2.IMWRITE_WEBP_QUALITY, 80),
    "lossless alpha.webp": encoded(".webp", RGBA, cv2.IMWRITE_WEBP_QUALITY, 101),
    "rgb.bmp": encoded(".bmp"),
    "alpha.bmp": encoded(".bmp", RGBA),
    "progressive.jpg": encoded(".jpg", RGB, cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
}


@pytest.mark.parametrize("name", FILES)
def test_the_header_says_what_decoding_gives(name: str) -> None:
    height, width, _ = images.decode(FILES[name]).shape
    assert size_wh(FILES[name]) == (width, height)


def test_the_files_above_are_turned() -> None:
    for n in range(10):
        expected = (20, 30) if n in QUARTER_TURNED else (30, 20)
        assert size_wh(jpeg(n)) == size_wh(png(n, b"IDAT")) == expected
    assert {size_wh(webp(n)) for n in range(1, 9)} == {(30, 20)}


def test_the_rest_of_a_file_is_not_needed() -> None:
    for data in (jpeg(6), encoded(".png"), encoded(".webp")):
        assert size_wh(data) == size_wh(data[: len(data) // 2])


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no picture",
        b"\xff\xd8\xff",
        b"\x89PNG\r\n\x1a\n",
        b"RIFF\0\0\0\0WEBP",
        b"RIFF\0\0\0\0AVI ",
        b"BM",
        b"GIF89a",
        b'<?xml version="1.0"?><svg width="3" height="4" xmlns="http://www.w3.org/2000/svg"/>',
    ],
)
def test_what_has_no_header_is_refused_as_by_decoding(data: bytes) -> None:
    with pytest.raises(images.UnreadableImage):
        size_wh(data)
