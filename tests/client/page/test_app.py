"""What the page's server answers, and what it does not."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
from pathlib import Path

import httpx
import pytest
from nas_client import Detector
from nas_client.page.app import MAX_BYTES
from nas_serve import Server

from support.commands import CLIENT
from support.samples import SAMPLES

INT8 = "yolo_nas_s_int8"
BUS = (SAMPLES / "bus.jpg").read_bytes()


def ask(url: str, query: str = f"?model={INT8}", content: bytes = BUS, **headers: str) -> httpx.Response:
    return httpx.post(f"{url}/api/detect{query}", content=content, headers=headers, timeout=300)


def test_it_finds_what_the_client_finds(page_url: str, server: Server) -> None:
    with Detector(server.grpc_url, INT8) as detector:
        for options in ({}, {"score_threshold": 0.6, "iou_threshold": 0.5, "max_detections": 3}):
            expected = detector.detect(BUS, **options)  # type: ignore[call-overload]
            query = "".join(f"&{name}={value}" for name, value in options.items())
            found = ask(page_url, f"?model={INT8}{query}").json()
            assert [one["name"] for one in found["detections"]] == list(expected.names)
            assert found["detections"][0]["box_xyxy"] == pytest.approx(expected.boxes_xyxy[0].tolist(), abs=0.01)
            assert (found["width"], found["height"], found["model"]) == (810, 1080, INT8)


def test_times_by_stage_are_parts_of_the_request(page_url: str) -> None:
    asked = (ask(page_url, f"?model={INT8}&stages=1").json()["ms"] for _ in range(20))
    taken = next(taken for taken in asked if len(taken) > 1)  # alone; the server asks its models now and then, too
    assert taken.keys() == {"request", "preprocess", "engine", "postprocess", "queue"}
    assert 0 < taken["preprocess"] < taken["engine"]
    assert sum(value for stage, value in taken.items() if stage != "request") < taken["request"] * 1.1
    assert ask(page_url).json()["ms"].keys() == {"request"}


def test_models(page_url: str) -> None:
    models = httpx.get(f"{page_url}/api/models").json()
    assert len(models) == 6
    (one,) = (model for model in models if model["name"] == INT8)
    assert one["precision"] == "int8" and len(one["class_names"]) == 80 and one["canvas_hw"] == [640, 640]


@pytest.mark.parametrize(
    ("query", "content", "status", "says"),
    [
        (f"?model={INT8}", b"no picture", 400, "10 bytes that are no JPEG"),
        (f"?model={INT8}", b"", 400, "no picture in the request"),
        (f"?model={INT8}&score_threshold=high", BUS, 400, "score_threshold=high is no number"),
        (f"?model={INT8}&score_threshold=7", BUS, 400, "must be from 0 to 1"),
        ("?model=nope", BUS, 404, "nope: no such model"),
        ("", BUS, 404, "serves 6 models"),
        (f"?model={INT8}", bytes(MAX_BYTES + 1), 413, "more than 64 MiB"),
    ],
)
def test_mistakes_are_named(query: str, content: bytes, status: int, says: str, page_url: str) -> None:
    answer = ask(page_url, query, content)
    assert answer.status_code == status and says in answer.json()["error"]


OUTSIDE = (
    "/static/../app.py",
    "/static/%2e%2e/app.py",
    "/static//etc/passwd",
    "/static/..%2fapp.py",
    "/app.py",
    "/static/",
)


@pytest.mark.parametrize("path", OUTSIDE)
def test_no_other_file_can_be_read(path: str, page_url: str) -> None:
    host, _, port = page_url.removeprefix("http://").partition(":")
    with httpx.Client() as client:
        request = client.build_request("GET", page_url)
        request.url = httpx.URL(scheme="http", host=host, port=int(port), raw_path=path.encode())
        assert client.send(request).status_code in (400, 404, 405)


def test_strangers_are_refused(page_url: str) -> None:
    assert httpx.get(page_url, headers={"host": "evil.example.com"}).status_code == 400  # a name that was rebound
    assert ask(page_url, origin="https://evil.example.com").status_code == 403
    assert ask(page_url, origin=page_url).status_code == 200


def test_nothing_comes_from_elsewhere(page_url: str) -> None:
    answer = httpx.get(page_url)
    assert "default-src 'self'" in answer.headers["content-security-policy"]
    for path in ("/", "/static/page.js", "/static/draw.js", "/static/server.js", "/static/page.css"):
        text = httpx.get(f"{page_url}{path}").text
        assert set(re.findall(r"https?://[^\s\"'`)]+", text)) <= {"http://www.w3.org/2000/svg"}


def test_it_waits_for_a_server_that_is_away(tmp_path: Path) -> None:
    command = [str(CLIENT), "page", "--port", "0", "--url", "127.0.0.1:9"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        assert "no Triton server answers on 127.0.0.1:9" in line and "waits for a server" in line
        url = re.search(r"http://127\.0\.0\.1:\d+", line)
        assert url is not None
        answer = httpx.get(f"{url[0]}/api/models", timeout=300)
        assert answer.status_code == 503 and "no Triton server answers" in answer.json()["error"]
        process.terminate()
        assert process.wait(300) in (0, -signal.SIGTERM)


def test_a_port_that_is_taken_is_named(page_url: str) -> None:
    port = page_url.rpartition(":")[2]
    done = subprocess.run([CLIENT, "page", "--port", port], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 1 and f"cannot listen on 127.0.0.1:{port}: Address already in use" in done.stderr


def test_it_ends_with_what_it_is_attached_to(server: Server) -> None:
    command = [str(CLIENT), "page", "--port", "0", "--url", server.grpc_url, "--attached"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None and process.stdin is not None
        assert "http://" in process.stderr.readline()
        threading.Timer(0.5, process.stdin.close).start()
        assert process.wait(300) in (0, -signal.SIGTERM)


def test_without_its_packages_it_says_so(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['starlette'] = None\n")
    done = subprocess.run(
        [CLIENT, "page"], env=os.environ | {"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1 and "pip install 'nas-triton[page]'" in done.stderr
