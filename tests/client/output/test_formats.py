from __future__ import annotations

import csv
import io
import json
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from nas_client import Detections
from nas_client.media.sources import Source, expand
from nas_client.output import coco, formats
from nas_client.output.draw import annotate
from nas_client.output.formats import Found

NAMES = ("person", "Straßenbahn, rot")
RESULTS = [
    Found(
        Source("a/x.jpg", "x.jpg"),
        (100, 50),
        Detections(
            np.array([[10, 5, 30, 25], [0, 0, 100, 50]], np.float32),
            np.array([0.9, 0.5], np.float32),
            np.array([1, 0], np.int32),
            (NAMES[1], NAMES[0]),
        ),
    ),
    Found(
        Source("b.jpg", "b.jpg"),
        (64, 64),
        Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int32), ()),
    ),
]


def test_json_and_jsonl_say_the_same() -> None:
    whole = json.loads(formats.to_json(RESULTS, NAMES))
    assert whole == [json.loads(formats.jsonl_lines(found)) for found in RESULTS]
    assert whole[0]["detections"][0] == {
        "name": NAMES[1],
        "label": 1,
        "score": 0.9,
        "box_xyxy": [10.0, 5.0, 30.0, 25.0],
    }
    assert whole[1] == {"source": "b.jpg", "width": 64, "height": 64, "detections": []}


def test_csv_quotes_names() -> None:
    rows = list(csv.DictReader(io.StringIO(formats.CSV_HEADER + "".join(map(formats.csv_lines, RESULTS)))))
    assert [row["name"] for row in rows] == [NAMES[1], NAMES[0]]
    assert rows[0]["source"] == "a/x.jpg" and float(rows[0]["right"]) == 30


def test_coco_is_a_whole_data_set() -> None:
    data = json.loads(coco.to_coco(RESULTS, NAMES))
    assert [c["name"] for c in data["categories"]] == list(NAMES)
    first = data["annotations"][0]
    assert first["bbox"] == [10.0, 5.0, 20.0, 20.0] and first["area"] == 400.0
    assert data["categories"][first["category_id"] - 1]["name"] == NAMES[1]
    assert {a["image_id"] for a in data["annotations"]} == {1}


def test_write_atomic_leaves_the_old_file_when_it_fails(tmp_path: Path) -> None:
    target = tmp_path / "sub" / "x.txt"
    formats.write_atomic(target, b"old")
    with pytest.raises(TypeError):
        formats.write_atomic(target, "text is no bytes")  # type: ignore[arg-type]
    assert target.read_bytes() == b"old" and [p.name for p in target.parent.iterdir()] == ["x.txt"]


def test_pipes_and_devices_stay_what_they_are(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with ThreadPoolExecutor(1) as pool:
        reader = pool.submit((tmp_path / "pipe").read_bytes)
        formats.write_atomic(tmp_path / "pipe", b"whole")
        assert reader.result(60) == b"whole" and (tmp_path / "pipe").is_fifo()
    with (tmp_path / "file").open("wb") as file:
        (tmp_path / "out").symlink_to(f"/proc/self/fd/{file.fileno()}")
        formats.write_atomic(tmp_path / "out", b"x")
    assert (tmp_path / "out").is_symlink() and (tmp_path / "file").read_bytes() == b"x"
    (tmp_path / "null").symlink_to("/dev/null")
    formats.write_atomic(tmp_path / "null", b"x")
    assert (tmp_path / "null").is_symlink() and Path("/dev/null").is_char_device()


def test_what_cannot_be_written_is_named_as_the_user_named_it(tmp_path: Path) -> None:
    with pytest.raises(OSError) as error:
        formats.write_atomic(Path("/proc/nothing.csv"), b"x")
    assert error.value.filename == "/proc/nothing.csv"


def test_files_have_the_rights_that_the_user_gives_and_any_name(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 251 + ".csv")
    before = os.umask(0o027)
    try:
        formats.write_atomic(path, b"x")
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640 and list(tmp_path.iterdir()) == [path]


def test_annotate_draws_boxes_where_they_are() -> None:
    image = np.zeros((200, 300, 3), np.uint8)
    detections = Detections(np.array([[50, 80, 150, 160]], np.float32), np.float32([0.8]), np.int32([3]), ("Käse",))
    drawn = annotate(image, detections)
    assert not image.any() and drawn.shape == image.shape
    assert drawn[80, 100].any() and drawn[160, 100].any() and drawn[120, 50].any() and drawn[120, 150].any()
    assert not drawn[120, 100].any() and not drawn[180, 250].any()
    assert drawn[70, 60].any()  # the caption's ground above the box


@pytest.mark.parametrize("box", [[0, 0, 300, 200], [299, 199, 300, 200], [0, 0, 0, 0]])
def test_annotate_at_the_edges(box: list[float]) -> None:
    detections = Detections(np.array([box], np.float32), np.float32([1.0]), np.int32([0]), ("x" * 100,))
    assert annotate(np.zeros((200, 300, 3), np.uint8), detections).any()


def test_expand_keeps_order_and_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("d/b.png", "d/a.jpg", "d/deep/c.webp", "d/notes.txt", "g1.jpg", "g2.jpg", "odd[1].jpg"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    Path("empty").mkdir()
    names = ["g*.jpg", "d", "missing.jpg", "-", "https://example.org/x/y.png?size=1", "odd[1].jpg", "n*.jpg", "empty"]
    assert [s.name for s in expand(names)] == [
        "g1.jpg",
        "g2.jpg",
        "d/a.jpg",
        "d/b.png",
        "d/deep/c.webp",
        "missing.jpg",
        "-",
        "https://example.org/x/y.png?size=1",
        "odd[1].jpg",
        "n*.jpg",
        "empty",
    ]
    assert expand(names)[7].file_name == "y.png"
    with pytest.raises(OSError, match="no such file"):
        Source("missing.jpg", "missing.jpg").read()
    with pytest.raises(OSError, match="a folder without pictures"):
        Source("empty", "empty").read()


def test_no_cell_becomes_a_formula() -> None:
    found = RESULTS[0].detections
    evil = formats.csv_lines(Found(Source("=HYPERLINK(1).jpg", "x.jpg"), (10, 10), found))
    assert evil.count("'=HYPERLINK(1).jpg,") == 2 == len(evil.splitlines())
    assert formats.csv_lines(Found(Source("-", "stdin"), (10, 10), found)).startswith("-,")
