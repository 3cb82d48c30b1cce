"""Decode pictures: upright RGB, or a reason why not."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .opencv import cv2

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})  # of files that may be decoded


_SIGNATURES = {"JPEG": b"\xff\xd8\xff", "PNG": b"\x89PNG\r\n\x1a\n", "BMP": b"BM", "WebP": b"RIFF"}
# Chunks of a PNG that say nothing of its pixels, and of which libpng says much on standard error.
_CHATTY = frozenset({b"iCCP", b"sRGB", b"cHRM", b"sBIT", b"iTXt", b"tEXt", b"zTXt", b"pHYs", b"tIME", b"bKGD", b"hIST"})
_FRAME_HEADERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # of a JPEG
_DATA_URL = re.compile(rb"\s*data:image/[\w.+-]+;base64,")
_BASE64 = re.compile(rb"\s*([A-Za-z0-9+/]{16})")


# What OpenCV's flags add (IMREAD_REDUCED_...) to have libjpeg leave out frequencies: a half, a quarter, an eighth.
_REDUCED = {1: 0, 2: 16, 4: 32, 8: 64}


class UnreadableImage(ValueError):
    """The bytes are no picture that can be decoded; the message says why."""


class Reduced(NamedTuple):
    """A picture, perhaps smaller than it is.

    Attributes:
        image: (h, w, 3) uint8, RGB.
        size_hw: of the whole picture in pixels, upright.
    """

    image: NDArray[np.uint8]
    size_hw: tuple[int, int]


def decode(data: bytes) -> NDArray[np.uint8]:
    """Decode one picture.

    The EXIF orientation is applied, greyscale is repeated to three channels, alpha is dropped, 16 bits become 8.

    Args:
        data: a whole JPEG, PNG, WebP or BMP file, or its base64 text, also in a data URL.

    Returns:
        (H, W, 3) uint8, RGB.

    Raises:
        UnreadableImage: see `decode_reduced`.
    """
    return decode_reduced(data, lambda _: 1).image


def decode_reduced(data: bytes, divisor: Callable[[tuple[int, int]], float]) -> Reduced:
    """Decode one picture, a JPEG as small as it may be: that takes less time.

    Args:
        data: as `decode` takes it.
        divisor: of a height and width in pixels, upright or not: how many times smaller the picture may be decoded; 1,
            2, 4 or 8 that is not more is taken.

    Raises:
        UnreadableImage: if the bytes are empty, no picture, cut off before any row could be decoded, or hold more
            pixels than OPENCV_IO_MAX_IMAGE_PIXELS allowed when OpenCV was loaded (checked against the header,
            before anything is allocated).
    """
    if not data:
        raise UnreadableImage("zero bytes")
    data = from_base64(data)
    kind = _check_claims(data)
    if kind == "PNG":
        data = _without_chatter(data)
    whole = _size_hw(data) if kind == "JPEG" else None
    most = max(1, divisor(whole)) if whole else 1
    by = max(n for n in _REDUCED if n <= most)
    try:
        image = _decode_rgb(np.frombuffer(data, np.uint8), _REDUCED[by])
    except cv2.error as error:
        if "CV_IO_MAX_IMAGE" in str(error):
            raise UnreadableImage(
                "more pixels than the limit (max_pixels in the config of the preprocess model)"
            ) from None
        raise UnreadableImage(f"OpenCV: {error.err or error}") from None
    if image is None:
        raise UnreadableImage(f"{len(data)} bytes that are no JPEG, PNG, WebP or BMP picture, or a damaged one")
    height, width = image.shape[:2]
    if whole is None or by == 1:
        return Reduced(image, (height, width))
    expected = tuple(-(-side // by) for side in whole)
    if (height, width) == expected:
        return Reduced(image, whole)
    # Turned by its EXIF orientation; or its header has two minds about it.
    return Reduced(image, whole[::-1] if (width, height) == expected else (height * by, width * by))


def _size_hw(data: bytes) -> tuple[int, int] | None:
    """Of a JPEG, as its frame header has it: not turned; None if none is found."""
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker in _FRAME_HEADERS:
            height, width = (int.from_bytes(data[at + start : at + start + 2], "big") for start in (5, 7))
            return (height, width) if height and width else None
        if marker == 0xDA:  # the pixels begin
            return None
        alone = marker == 0xFF or marker == 0x01 or 0xD0 <= marker <= 0xD7
        at += (1 if marker == 0xFF else 2) if alone else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return None


def from_base64(data: bytes) -> bytes:
    """The picture, if the bytes are its base64 text, as JSON carries it; what is anything else comes back as it is.

    There is no doubt: no picture begins with text whose decoding begins as a picture does.

    Raises:
        UnreadableImage: if the text is damaged.
    """
    url = _DATA_URL.match(data)
    text = data[url.end() :] if url else data
    begins = _BASE64.match(text)
    if begins is None or not base64.b64decode(begins[1]).startswith(tuple(_SIGNATURES.values())):
        return data
    try:
        return base64.b64decode(b"".join(text.split()), validate=True)
    except binascii.Error as error:
        raise UnreadableImage(f"base64 text of a picture that is cut off or damaged: {error}") from None


def _decode_rgb(data: NDArray[np.uint8], reduced: int) -> Any:
    """None if it cannot be decoded. OpenCV before 4.11 gives BGR only."""
    if hasattr(cv2, "IMREAD_COLOR_RGB"):
        return cv2.imdecode(data, cv2.IMREAD_COLOR_RGB | reduced)
    image = cv2.imdecode(data, cv2.IMREAD_COLOR | reduced)
    return image if image is None else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _check_claims(data: bytes) -> str:
    """Before OpenCV allocates what a file claims to hold: only formats of the contract, no part larger than the file.

    JPEG's lengths have 16 bits, and sizes in pixels are checked by OpenCV. Returns the format.
    """
    kind = next((kind for kind, signature in _SIGNATURES.items() if data.startswith(signature)), None)
    if kind is None or (kind == "WebP" and data[8:12] != b"WEBP"):
        raise UnreadableImage(f"{len(data)} bytes that are no JPEG, PNG, WebP or BMP picture")
    if kind == "WebP" and int.from_bytes(data[4:8], "little") + 8 > len(data) + 1:
        raise UnreadableImage(f"a WebP of {len(data)} bytes that claims to have more")
    if kind == "PNG":
        for at, length, _ in _chunks(data):
            if length > len(data) - at - 8:
                raise UnreadableImage(f"a PNG of {len(data)} bytes with a chunk that claims {length}")
    return kind


def _chunks(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Of a PNG: where each begins, its length and its name; what comes after its end is nobody's."""
    at = len(_SIGNATURES["PNG"])
    name = b""
    while name != b"IEND" and at + 8 <= len(data):
        length, name = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        yield at, length, name
        at += 12 + length


def _without_chatter(data: bytes) -> bytes:
    left_out = [(at, at + 12 + length) for at, length, name in _chunks(data) if name in _CHATTY]
    if not left_out:
        return data
    kept, last = [], 0
    for start, stop in left_out:
        kept.append(data[last:start])
        last = stop
    return b"".join([*kept, data[last:]])
