"""Names of pictures: files, folders, globs, URLs, standard input."""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path

import pytest
from nas_client.media import sources
from nas_client.media.video import Video, is_video

from support.samples import PICTURES


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("http://[::1/x.jpg", "cannot download: Invalid port"),
        ("http://localhost:abc/x.jpg", "cannot download: Invalid port: 'abc'"),
        ("http:///x.jpg", "cannot download: Request URL is missing"),
        ("http://a..b/x.jpg", "cannot download: encoding with 'idna' codec failed"),
        ("http://xn--a/x.jpg", "cannot download: Codepoint"),
        ("http://[::1/x.mp4", "malformed URL: Invalid IPv6 URL; expected scheme://host:port/path"),
        ("rtsp://localhost:99999/x", "malformed URL: Port out of range 0-65535"),
        ("//[x/y.jpg", "no such file"),
        ("//[x/y.mp4", "no such file"),
        ("~nobody_of_this_name/x.jpg", "no such file"),
        pytest.param("x" * 300 + ".jpg", "file name too long", id="a long name"),
        pytest.param("9" * 5000, "file name too long", id="a camera of 5000 digits"),
        ("/dev/video99999999999", "no such file"),
    ],
)
def test_a_source_that_cannot_be_is_an_error_of_its_own(name: str, message: str) -> None:
    before, source, after = sources.expand([str(PICTURES[0]), name, str(PICTURES[1])])
    assert source.name == name and before.read() and after.read()
    with pytest.raises(OSError, match="^" + re.escape(message)):
        if is_video(source.name):
            Video(source.name)
        else:
            source.read()


def names(*given: object) -> list[str]:
    return [source.name for source in sources.expand(map(str, given))]


def test_a_folder_is_its_pictures_sorted_with_those_below(tmp_path: Path) -> None:
    for name in ("b.JPG", "a.png", "deep/c.webp", "notes.txt", "clip.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    assert names(tmp_path) == [str(tmp_path / name) for name in ("a.png", "b.JPG", "deep/c.webp")]
    assert names(tmp_path / "*.txt") == [str(tmp_path / "notes.txt")]  # a glob says itself what it means
    assert names(tmp_path / "*.gif") == [str(tmp_path / "*.gif")]


def test_pictures_that_are_left_out_are_counted(tmp_path: Path) -> None:
    for name in ("a.tiff", "b.TIFF", "deep/c.gif", "d.avif", "e.jpg", "notes.txt", "labels.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    told: dict[str, dict[str, int]] = {}
    sources.expand([str(tmp_path), str(tmp_path / "a.tiff"), "-"], {".jpg"}, told.__setitem__)
    assert told == {str(tmp_path): {".tiff": 2, ".gif": 1, ".avif": 1}}
    told.clear()
    sources.expand([str(tmp_path)], {".jpg", ".tiff", ".gif", ".avif"}, told.__setitem__)
    assert told == {}


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(tmp_path: Path) -> None:
    (tmp_path / "a[1].jpg").write_bytes(b"x")
    (tmp_path / "a1.jpg").write_bytes(b"x")
    assert names(tmp_path / "a[1].jpg") == [str(tmp_path / "a[1].jpg")]


def test_a_folder_without_pictures_and_a_missing_file_are_errors_when_read(tmp_path: Path) -> None:
    empty, missing = sources.expand([str(tmp_path), str(tmp_path / "x.jpg")])
    with pytest.raises(OSError, match="a folder without pictures"):
        empty.read()
    with pytest.raises(OSError, match="no such file"):
        missing.read()


@pytest.mark.parametrize(
    ("name", "file_name"),
    [
        ("https://host/a/b.jpg?size=2", "b.jpg"),
        ("https://host/", "download"),
        ("rtsp://camera/stream", "stream"),
        ("-", "stdin"),
    ],
)
def test_what_is_saved_is_named_after(name: str, file_name: str) -> None:
    assert [source.file_name for source in sources.expand([name])] == [file_name]


def test_standard_input_is_read_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    (source,) = sources.expand(["-"])
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"abc")))
    assert source.read() == b"abc"
    monkeypatch.setattr(sources, "MAX_BYTES", 2)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"abc")))
    with pytest.raises(OSError, match="which is no picture; nothing more was read"):
        source.read()
