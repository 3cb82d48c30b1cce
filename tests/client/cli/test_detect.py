"""nas-client as a user runs it."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import time
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
from nas_client.media.video_file import VideoFile

from support.commands import CLIENT, Run
from support.samples import PICTURES, SAMPLES
from support.web import serving_files


@pytest.fixture
def detect(run: Run) -> partial[tuple[str, str]]:
    return partial(run, "detect", "--model", "yolo_nas_s_int8")


def test_table(detect: partial) -> None:
    out, _ = detect(SAMPLES / "chelsea.png")
    assert "cat" in out and "chelsea.png" in out and "score" in out


def test_formats_agree(detect: partial) -> None:
    whole = json.loads(detect(SAMPLES, "--format", "json")[0])
    assert [Path(r["source"]).name for r in whole] == [p.name for p in PICTURES]
    lines = [json.loads(line) for line in detect(SAMPLES, "--format", "jsonl")[0].splitlines()]
    assert lines == whole
    count = sum(len(r["detections"]) for r in whole)
    assert len(list(csv.reader(io.StringIO(detect(SAMPLES, "--format", "csv")[0])))) == count + 1
    assert len(json.loads(detect(SAMPLES, "--format", "coco")[0])["annotations"]) == count
    yolo = detect(SAMPLES, "--format", "yolo")[0].splitlines()
    assert len([line for line in yolo if not line.startswith("#")]) == count


def test_http_gives_the_same(detect: partial) -> None:
    assert detect(SAMPLES, "--format", "jsonl") == detect(SAMPLES, "--format", "jsonl", "--protocol", "http")


def test_one_bad_file_among_many(detect: partial, tmp_path: Path) -> None:
    (tmp_path / "bad[bold].jpg").write_bytes(b"no picture")
    good = SAMPLES / "chelsea.png"
    out, errors = detect("bad[bold].jpg", good, "missing.jpg", good, "--format", "jsonl", "--save", "out", code=1)
    assert [json.loads(line)["detections"][0]["name"] for line in out.splitlines()] == ["cat", "cat"]
    assert "bad[bold].jpg: image[0] of 1: 10 bytes that are no" in errors
    assert "missing.jpg: no such file" in errors and "2 of 4 sources failed" in errors
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["chelsea.png", "chelsea_2.png"]


def test_save_draws_upright_pictures(detect: partial, tmp_path: Path) -> None:
    detect(SAMPLES, "--save", "deep/er")
    for path in PICTURES:
        before, after = cv2.imread(str(path)), cv2.imread(str(tmp_path / "deep/er" / path.name))
        assert before.shape == after.shape and (before != after).any()


def test_originals_are_not_written_over(detect: partial, tmp_path: Path) -> None:
    shutil.copy(SAMPLES / "chelsea.png", tmp_path)
    with VideoFile(tmp_path / "x.mp4", fps=5) as video:
        video.write(np.zeros((32, 32, 3), np.uint8), 0)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    _, errors = detect("chelsea.png", "x.mp4", "--save", ".", code=1)
    assert errors.count("is an original. Give another folder with --save") == 2
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_nor_is_another_picture_of_the_same_name(detect: partial, tmp_path: Path) -> None:
    (tmp_path / "pics" / "2024").mkdir(parents=True)
    for name, picture in (("2024/a.png", "chelsea.png"), ("a.png", "coffee.png")):
        shutil.copy(SAMPLES / picture, tmp_path / "pics" / name)
    _, errors = detect("pics", "--save", "pics", code=1)
    assert "not saved: pics/a.png is an original" in errors
    assert (tmp_path / "pics/a.png").read_bytes() == (SAMPLES / "coffee.png").read_bytes()
    assert (tmp_path / "pics/a_2.png").exists()  # the other's


@pytest.mark.parametrize("format", ["json", "coco", "cvat", "label-studio", "csv", "table"])
def test_a_name_that_is_no_text_loses_no_other(format: str, detect: partial, tmp_path: Path) -> None:
    (tmp_path / "pics").mkdir()
    shutil.copy(SAMPLES / "chelsea.png", tmp_path / "pics" / "a.png")
    shutil.copy(SAMPLES / "chelsea.png", os.path.join(os.fsencode(tmp_path), b"pics", b"caf\xe9.png"))
    _, errors = detect("pics", "--format", format, "--output", "out", code=1)
    assert "its name is not UTF-8 text; rename it" in errors and "1 of 2 sources failed" in errors
    assert "a.png" in (tmp_path / "out").read_text() and "Traceback" not in errors


def test_standard_input_url_and_glob(detect: partial, tmp_path: Path) -> None:
    shutil.copy(SAMPLES / "bus.jpg", tmp_path)
    with serving_files(tmp_path) as url:
        out, errors = detect(
            "-",
            f"{url}/bus.jpg",
            "b*.jpg",
            f"{url}/no.jpg",
            "--format",
            "jsonl",
            code=1,
            stdin=(SAMPLES / "bus.jpg").read_bytes(),
        )
    results = [json.loads(line) for line in out.splitlines()]
    assert [r["source"] for r in results] == ["-", f"{url}/bus.jpg", "bus.jpg"]
    assert results[0]["detections"] == results[1]["detections"] == results[2]["detections"]
    assert "no.jpg: cannot download: Client error '404" in errors


def test_output_files(detect: partial, tmp_path: Path) -> None:
    out, _ = detect(SAMPLES, "--format", "yolo", "--output", "labels")
    written = sorted(p.name for p in (tmp_path / "labels/labels").iterdir())
    assert out == "" and written == [f"{p.stem}.txt" for p in PICTURES]
    assert (tmp_path / "labels/data.yaml").is_file() and (tmp_path / "labels/images/bus.jpg").is_file()
    out, _ = detect(SAMPLES, "--format", "json", "--output", "x.json")
    assert out == "" and len(json.loads((tmp_path / "x.json").read_text())) == len(PICTURES)


def test_only_some_classes(detect: partial) -> None:
    whole = json.loads(detect(SAMPLES / "bus.jpg", "--format", "json")[0])[0]["detections"]
    some = json.loads(detect(SAMPLES / "bus.jpg", "--format", "json", "--classes", "bus, dining table")[0])
    assert some[0]["detections"] == [one for one in whole if one["name"] in ("bus", "dining table")]
    assert {one["name"] for one in some[0]["detections"]} == {"bus", "dining table"}
    _, errors = detect(SAMPLES / "bus.jpg", "--classes", "persn,zzz", code=2)
    assert "no class persn (did you mean person?), zzz; it has 80: person, bicycle" in errors
    _, errors = detect(SAMPLES / "bus.jpg", "--classes", ",", code=2)
    assert "no class without a name" in errors


def test_formats_of_other_tools(detect: partial, tmp_path: Path) -> None:
    ids = {
        "images": [{"id": 5, "file_name": "bus.jpg"}],
        "categories": [{"id": 3, "name": "bus"}, {"id": 4, "name": "person"}],
    }
    (tmp_path / "instances.json").write_text(json.dumps(ids))
    asked = ("--like", "instances.json", "--score-threshold", 0.5)
    out, errors = detect(SAMPLES, "--format", "coco-results", *asked, code=1)
    assert {(one["image_id"], one["category_id"]) for one in json.loads(out)} == {(5, 3), (5, 4)}
    assert "instances.json has no picture of this name" in errors and "3 of 4 sources failed" in errors
    detect(SAMPLES, "--format", "voc", "--output", "voc")
    assert len(list((tmp_path / "voc").glob("*.xml"))) == len(PICTURES)
    detect(SAMPLES, "--format", "label-studio", "--output", "tasks.json")
    assert len(json.loads((tmp_path / "tasks.json").read_text())) == len(PICTURES)
    assert "<RectangleLabels" in (tmp_path / "tasks.interface.xml").read_text()
    assert detect(SAMPLES, "--format", "cvat")[0].count("<image ") == len(PICTURES)


def test_nothing_found(detect: partial) -> None:
    out, _ = detect(SAMPLES / "chelsea.png", "--score-threshold", "1")
    assert "nothing found" in out


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["detect", "x.jpg", "--model", "nope"], 1, "nope: no such model on"),
        (["detect", "x.jpg"], 1, "serves 6 models"),
        (["detect", "x.jpg", "--url", "127.0.0.1:9"], 1, "no Triton server answers on 127.0.0.1:9 (gRPC)"),
        (["detect", "x.jpg", "--url", "http://127.0.0.1:9"], 1, "no Triton server answers on 127.0.0.1:9 (HTTP)"),
        (["models", "--url", "127.0.0.1:9"], 1, "Start one with `nas-serve`"),
        (["detect", "x.jpg", "--url", "ftp://x"], 2, "unknown scheme"),
        (["detect", "x.jpg", "--score-threshold", "2"], 2, "--score-threshold"),
        (["detect", "x.jpg", "--format", "xml"], 2, "xml"),
        (["detect"], 2, "Missing argument"),
        (["detect", "x.jpg", "--format", "voc"], 2, "give their folder with --output"),
        (["detect", "x.jpg", "--format", "csv", "--output", "."], 2, ". is a folder; csv is one file"),
        (["detect", "x.jpg", "--format", "csv", "--with-scores"], 2, "only yolo has a column to spare"),
        (
            ["detect", "x.mp4", "--format", "cvat", "--model", "yolo_nas_s_int8"],
            1,
            "cvat names pictures, and frames are",
        ),
        (["detect", "x.jpg", "--format", "csv", "--like", "x.json"], 2, "only coco and coco-results have ids"),
        (["detect", "x.jpg", "--format", "coco", "--like", "x.json"], 2, "x.json: no such file"),
    ],
)
def test_messages(arguments: list[str], code: int, message: str, run: Run) -> None:
    _, errors = run(*arguments, code=code)
    assert message in errors.replace("│ ", "")


@pytest.mark.parametrize("given_by", ["--url", "NAS_URL", "NAS_HTTP_URL"])
@pytest.mark.parametrize("url", ["http://[::1", "http://localhost:99999", "http://localhost:abc", ""])
def test_a_malformed_address_is_one_message(given_by: str, url: str, tmp_path: Path) -> None:
    option = {"--url": ["--url", url], "NAS_URL": [], "NAS_HTTP_URL": ["--protocol", "http"]}[given_by]
    result = subprocess.run(
        [str(CLIENT), "detect", "x.jpg", *option],
        capture_output=True,
        cwd=tmp_path,
        env=os.environ | {given_by: url, "COLUMNS": "200"},
        timeout=300,
        check=False,
    )
    errors = result.stderr.decode()
    assert result.returncode == 2 and "Traceback" not in errors
    assert f"Invalid value for {given_by}: {url!r}: " in errors and "expected host:port" in errors


def test_malformed_urls_leave_the_other_sources(detect: partial) -> None:
    malformed = ("http://[::1/x.jpg", "http://localhost:abc/x.jpg", "rtsp://[::1/x")
    out, errors = detect(malformed[0], PICTURES[0], *malformed[1:], PICTURES[1], "--format", "jsonl", code=1)
    assert [json.loads(line)["source"] for line in out.splitlines()] == [str(path) for path in PICTURES[:2]]
    assert all(f"error: {url}: " in errors for url in malformed) and "3 of 5 sources failed" in errors


def test_what_is_answered_before_ctrl_c_is_kept(run: Run, tmp_path: Path) -> None:
    """A slow model and many pictures: interrupted, the client writes what it has."""
    command = [str(CLIENT), "detect", *[str(PICTURES[1])] * 3000, "--model", "yolo_nas_l_fp16", "--format", "jsonl"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=run.environment, text=True
    ) as process:
        time.sleep(8)
        process.send_signal(signal.SIGINT)
        out, errors = process.communicate(timeout=300)
    assert process.returncode == 130 and "Traceback" not in errors
    assert 0 < len(out.splitlines()) < 3000
    assert all(json.loads(line)["source"] == str(PICTURES[1]) for line in out.splitlines())


def test_a_reader_who_has_seen_enough_ends_it_quietly(run: Run) -> None:
    """As `| head -1` does."""
    command = [str(CLIENT), "detect", *[str(PICTURES[1])] * 3000, "--model", "yolo_nas_s_int8", "--format", "jsonl"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=run.environment) as process:
        assert process.stdout is not None and process.stderr is not None
        assert json.loads(process.stdout.readline())["source"] == str(PICTURES[1])
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(300) == 141


@pytest.mark.parametrize("arguments", [["--format", "jsonl"], ["--format", "json"], []])
def test_a_full_disk_is_said_once(arguments: list[str], run: Run) -> None:
    command = [str(CLIENT), "detect", *map(str, PICTURES), "--model", "yolo_nas_s_int8", *arguments]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, env=run.environment, text=True, timeout=300)
    assert done.returncode == 1
    assert done.stderr == (
        "error: cannot write to standard output: No space left on device. What was written before is kept.\n"
    )


def test_models_on_a_full_disk(run: Run) -> None:
    with open("/dev/full", "w") as full:
        command = [str(CLIENT), "models"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, env=run.environment, text=True, timeout=300)
    assert done.returncode == 1 and "Traceback" not in done.stderr and "No space left on device" in done.stderr


def test_output_to_a_dash_is_printed(detect: partial, tmp_path: Path) -> None:
    out, _ = detect(SAMPLES / "bus.jpg", "--format", "jsonl", "--output", "-")
    assert json.loads(out)["detections"] and not (tmp_path / "-").exists()


def test_what_a_folder_has_beside_is_named(detect: partial, tmp_path: Path) -> None:
    shutil.copy(SAMPLES / "bus.jpg", tmp_path)
    (tmp_path / "scan.tiff").write_bytes(b"II*\0")
    out, errors = detect(tmp_path, "--format", "jsonl")
    assert len(out.splitlines()) == 1 and f"{tmp_path}: left out 1 .tiff, which the server does not read" in errors


@pytest.mark.parametrize("arguments", [["--format", "jsonl"], ["--format", "json"], [], ["--format", "yolo"]])
def test_an_output_that_cannot_be_written_is_named(arguments: list[str], detect: partial) -> None:
    _, errors = detect(SAMPLES / "bus.jpg", *arguments, "--output", "/proc/nope", code=1)
    assert errors.startswith("error: cannot write to /proc/nope") and errors.count("error") == 1
