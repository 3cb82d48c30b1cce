from __future__ import annotations

import base64
import os
import struct
import subprocess
import sys
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nas_ensembles import images


def encoded(image: np.ndarray, suffix: str) -> bytes:
    return cv2.imencode(suffix, image)[1].tobytes()


def with_exif_orientation(jpeg: bytes, orientation: int) -> bytes:
    """Insert an APP1 segment with one EXIF tag after the start of the JPEG."""
    tiff = b"II*\0" + struct.pack("<IHHHIHHI", 8, 1, 0x0112, 3, 1, orientation, 0, 0)
    segment = b"Exif\0\0" + tiff
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + jpeg[2:]


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".webp", ".jpg"])
def test_decodes_to_rgb(suffix: str) -> None:
    bgr = np.zeros((40, 60, 3), np.uint8)
    bgr[..., 2] = 200  # red
    image = images.decode(encoded(bgr, suffix))
    assert image.shape == (40, 60, 3) and image.dtype == np.uint8
    np.testing.assert_allclose(image[20, 30], [200, 0, 0], atol=3)


@pytest.mark.parametrize(
    ("orientation", "top_left_is_white"),
    [(1, True), (2, False), (3, False), (4, False), (5, True), (6, False), (7, False), (8, False)],
)
def test_exif_orientation_is_applied(orientation: int, top_left_is_white: bool) -> None:
    picture = np.zeros((32, 64, 3), np.uint8)
    picture[:16, :16] = 255  # white in the top left corner of the stored pixels
    image = images.decode(with_exif_orientation(encoded(picture, ".jpg"), orientation))
    assert image.shape[:2] == ((64, 32) if orientation >= 5 else (32, 64))
    assert (image[4, 4].min() > 200) == top_left_is_white


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize(("divisor", "by"), [(0.3, 1), (1.9, 1), (2.0, 2), (7.9, 4), (100.0, 8)])
def test_a_large_jpeg_is_decoded_to_a_part_of_its_size(divisor: float, by: int, orientation: int) -> None:
    rows, columns = np.mgrid[:203, :301]
    picture = np.stack([rows, columns // 2, rows // 2], axis=2).astype(np.uint8)
    data = with_exif_orientation(encoded(picture, ".jpg"), orientation)
    asked: list[tuple[int, int]] = []
    reduced = images.decode_reduced(data, lambda size_hw: asked.append(size_hw) or divisor)  # type: ignore[func-returns-value]
    whole = images.decode(data)
    assert asked == [(203, 301)] and reduced.size_hw == whole.shape[:2]
    assert reduced.image.shape == (-(-whole.shape[0] // by), -(-whole.shape[1] // by), 3)
    height, width = reduced.size_hw
    enlarged = cv2.resize(reduced.image, (width, height), interpolation=cv2.INTER_LINEAR)
    assert np.abs(enlarged.astype(int) - whole)[8:-8, 8:-8].mean() < 3


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".webp"])
def test_other_pictures_are_decoded_whole(suffix: str) -> None:
    data = encoded(np.zeros((40, 60, 3), np.uint8), suffix)
    image, size_hw = images.decode_reduced(data, lambda _: 8)
    assert image.shape == (40, 60, 3) and size_hw == (40, 60)


@pytest.mark.parametrize("cut", range(0, 700, 7))
def test_a_jpeg_that_is_cut_off_is_never_of_another_size(cut: int) -> None:
    data = encoded(np.zeros((40, 60, 3), np.uint8), ".jpg")[:cut]
    try:
        image, size_hw = images.decode_reduced(data, lambda _: 2)
    except images.UnreadableImage:
        return
    assert (image.shape, size_hw) == ((20, 30, 3), (40, 60))


def test_greyscale_becomes_three_channels() -> None:
    image = images.decode(encoded(np.full((10, 12), 77, np.uint8), ".png"))
    np.testing.assert_array_equal(image, np.full((10, 12, 3), 77))


def test_alpha_is_dropped() -> None:
    bgra = np.zeros((10, 12, 4), np.uint8)
    bgra[...] = (10, 20, 30, 128)
    np.testing.assert_array_equal(images.decode(encoded(bgra, ".png"))[0, 0], [30, 20, 10])


def test_sixteen_bits_become_eight() -> None:
    image = images.decode(encoded(np.full((10, 12), 0x80FF, np.uint16), ".png"))
    assert image.dtype == np.uint8 and image[0, 0, 0] == 0x80


def test_zero_bytes() -> None:
    with pytest.raises(images.UnreadableImage, match="zero bytes"):
        images.decode(b"")


@pytest.mark.parametrize("data", [b"hello", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"GIF89a"])
def test_what_is_no_picture(data: bytes) -> None:
    with pytest.raises(images.UnreadableImage, match=f"{len(data)} bytes that are no"):
        images.decode(data)


def test_pixel_limit_holds_before_anything_is_allocated() -> None:
    """A PNG header that claims 100 000 x 100 000 pixels: 30 GB if it were decoded."""
    header = encoded(np.zeros((4, 4, 3), np.uint8), ".png")
    ihdr = header[12:16] + struct.pack(">II", 100_000, 100_000) + header[24:29]
    huge = header[:12] + ihdr + struct.pack(">I", zlib.crc32(ihdr)) + header[33:]
    code = (
        "import sys; from nas_ensembles import images\n"
        "try: images.decode(sys.stdin.buffer.read())\n"
        "except images.UnreadableImage as error: print(error)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        input=huge,
        capture_output=True,
        env=os.environ | {"OPENCV_IO_MAX_IMAGE_PIXELS": "1000000"},
        check=True,
        timeout=300,
    )
    assert b"more pixels than the limit" in result.stdout


def png_of(*chunks: tuple[bytes, int, bytes]) -> bytes:
    """Name, claimed length and data of each chunk."""
    written = (
        struct.pack(">I", claimed) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, claimed, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(written)


HEADER = struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0)


@pytest.mark.parametrize(
    "data",
    [
        b"\x89PNG\r\n\x1a\n\xff\xff\xff\xf0IHDR",
        png_of((b"IHDR", 0xFFFFFFF0, HEADER)),
        png_of((b"IHDR", 13, HEADER), (b"IDAT", 0x7FFFFFF0, b"x")),
        png_of((b"IHDR", 13, HEADER), (b"iCCP", 5000, b"x")),
        b"RIFF\xf0\xff\xff\xffWEBPVP8L" + bytes(20),
    ],
)
def test_a_part_that_claims_more_than_the_file_has(data: bytes) -> None:
    """Refused before anything of that size is allocated."""
    import resource

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(images.UnreadableImage, match="claims"):
        images.decode(data)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB


@pytest.mark.parametrize("suffix", [".tiff", ".ppm", ".ras", ".hdr", ".pfm"])
def test_formats_outside_the_contract_are_refused(suffix: str) -> None:
    picture = (
        np.full((16, 16, 3), 0.5, np.float32) if suffix in (".hdr", ".pfm") else np.full((16, 16, 3), 99, np.uint8)
    )
    with pytest.raises(images.UnreadableImage, match="no JPEG, PNG, WebP or BMP"):
        images.decode(encoded(picture, suffix))


def test_what_follows_the_end_of_a_png_is_let_be() -> None:
    """Some cameras and screenshot tools leave bytes there."""
    picture = np.full((10, 12, 3), 77, np.uint8)
    assert images.decode(encoded(picture, ".png") + b"trailing data!").shape == (10, 12, 3)


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".webp", ".jpg"])
@pytest.mark.parametrize("before", [b"", b"data:image/x;base64,", b"\n"])
def test_base64_text_of_a_picture_is_the_picture(suffix: str, before: bytes) -> None:
    picture = encoded(np.random.default_rng(1).integers(0, 255, (24, 40, 3), np.uint8), suffix)
    for text in (base64.b64encode(picture), base64.encodebytes(picture)):
        assert images.from_base64(before + text) == picture
    np.testing.assert_array_equal(images.decode(before + base64.b64encode(picture)), images.decode(picture))


@given(
    st.sampled_from([b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM", b"RIFF", b"GIF8", b"", b"{"]), st.binary(max_size=60)
)
def test_what_is_no_text_stays_as_it_is(signature: bytes, rest: bytes) -> None:
    data = signature + rest
    if not data.startswith((b"/9j/", b"iVBORw0KGgo", b"Qk", b"UklGR")):
        assert images.from_base64(data) == data


@pytest.mark.parametrize("text", [b"/9j/AAAAAAAAAAAAAAAAA", b"/9j/AAAAAAAAAAAAAAAA????"])
def test_damaged_text_is_named(text: bytes) -> None:
    with pytest.raises(images.UnreadableImage, match="base64 text of a picture that is cut off or damaged"):
        images.decode(text)


def with_chunk(png: bytes, name: bytes, content: bytes) -> bytes:
    """After the header."""
    chunk = struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
    return png[:33] + chunk + png[33:]


def test_libpng_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    picture = np.random.default_rng(2).integers(0, 255, (9, 7, 3), np.uint8)
    png = encoded(picture, ".png")
    for name in (b"iCCP", b"sRGB", b"zTXt"):
        png = with_chunk(png, name, b"x\0\0" + zlib.compress(b"junk"))
    cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)
    assert "libpng" in capfd.readouterr().err  # as OpenCV alone
    np.testing.assert_array_equal(images.decode(png), picture[..., ::-1])
    assert capfd.readouterr().err == ""
