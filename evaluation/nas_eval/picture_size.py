"""Width and height of a picture as `images.decode` gives it, from the header: decoding takes far longer."""

from __future__ import annotations

import io

import imagesize
from nas_ensembles import images

_JPEG, _PNG, _WEBP = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF"


def size_wh(data: bytes) -> tuple[int, int]:
    """Width and height in pixels, upright as the EXIF orientation says where decoding follows it.

    What is in the file after the header is not looked at: it need not be a picture that can be decoded.

    Args:
        data: a whole JPEG, PNG, WebP or BMP file.

    Raises:
        UnreadableImage: if the header cannot be read and the file cannot be decoded either.
    """
    # imagesize does not turn PNGs, and BMPs are quick to decode.
    if data.startswith((_JPEG, _WEBP)) or (data.startswith(_PNG) and b"eXIf" not in data):
        width, height = imagesize.get(io.BytesIO(data))
        if width > 0 and height > 0:
            return width, height
    rows, columns, _ = images.decode(data).shape
    return columns, rows
