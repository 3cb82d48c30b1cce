"""Jobs as a user starts them: on this machine, on a cluster of two nodes, with what they need killed meanwhile."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from nas_client import Detector
from nas_serve import Server
from pycocotools.coco import COCO

from support.commands import CLIENT
from support.waiting import until

pytestmark = pytest.mark.slow
if importlib.util.find_spec("ray") is None:
    pytest.skip("the extra ray is not installed", allow_module_level=True)
pyarrow_dataset = pytest.importorskip("pyarrow.dataset")
MODEL = "yolo_nas_s_int8"
COUNT = int(os.environ.get("NAS_TEST_JOB_PICTURES", "300"))


@pytest.fixture(scope="module")
def server(repository: Path) -> Iterator[Server]:
    with Server(repository, models=[MODEL]) as server:
        yield server


def command(*arguments: object) -> list[str]:
    return [str(CLIENT), "job", *map(str, arguments)]


def run(*arguments: object, code: int = 0, **environment: str) -> tuple[dict[str, Any], str]:
    done = subprocess.run(
        command(*arguments, "--json"),
        capture_output=True, text=True, timeout=500, check=False, env=os.environ | environment,
    )  # fmt: skip
    assert done.returncode == code and "Traceback" not in done.stderr, done.stderr
    return json.loads(done.stdout) if done.stdout else {}, done.stderr


def rows(output: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pyarrow_dataset.dataset(output / "detections").to_table().to_pylist()
    return found


def test_rows_are_what_the_client_detects(server: Server, pictures: Callable[[int], Path], tmp_path: Path) -> None:
    folder, output = pictures(8), tmp_path / "out"
    summary, _ = run(folder, output, "--url", server.grpc_url, "--format", "coco", "--workers", 1)
    assert summary["pictures"] == summary["new"] == 8 and summary["failures"] == {"ImageRefused": 1}
    found = {row["id"]: row for row in rows(output)}
    assert found.keys() == {str(path.relative_to(folder)) for path in folder.rglob("*.jpg")}
    with Detector(server.grpc_url, MODEL) as detector:
        expected = detector.detect(folder / "000000.jpg")
    row = found["more/000001.jpg"]
    assert (row["width"], row["height"], row["error"]) == (240, 320, None) and row["names"] == list(expected.names)
    assert row["boxes"] == expected.boxes_xyxy.tolist() and row["labels"] == expected.labels.tolist()
    broken = found["broken.jpg"]
    assert broken["error"].startswith("ImageRefused: ") and broken["boxes"] is None
    coco = COCO(str(output / "coco.json"))
    assert len(coco.imgs) == 7 and len(coco.anns) == summary["detections"] == 7 * len(expected.names)
    # What is done needs no Ray.
    again, _ = run(folder, output, "--url", server.grpc_url, "--address", "127.0.0.1:9")
    assert again["new"] == 0 and again["pictures"] == 8
    shutil.copy(folder / "000000.jpg", folder / "later.jpg")
    assert run(folder, output, "--url", server.grpc_url)[0]["new"] == 1 and len(rows(output)) == 9
    _, errors = run(folder, output, "--url", server.grpc_url, "--score-threshold", 0.6, code=1)
    assert "has results of another thresholds" in errors


@pytest.mark.nightly
def test_each_node_serves_for_itself(repository: Path, pictures: Callable[[int], Path], tmp_path: Path) -> None:
    arguments = ("--embedded", "--model", MODEL, "--model-repository", repository)
    summary, _ = run(pictures(6), tmp_path / "out", *arguments)
    assert summary["pictures"] == 6 and summary["detections"] > 5
    with Server(repository, models=[MODEL]) as server:  # the same build by another way: the same job
        assert run(tmp_path / "pictures", tmp_path / "out", "--url", server.grpc_url)[0]["new"] == 0
    mine = [p for p in psutil.process_iter() if p.name() == "tritonserver" and str(repository) in str(p.environ())]
    assert until(lambda: not any(process.is_running() for process in mine))


def test_what_cannot_be_begun_is_named(pictures: Callable[[int], Path], tmp_path: Path) -> None:
    folder = pictures(2)
    assert "no Triton server answers" in run(folder, tmp_path / "out", "--url", "127.0.0.1:9", code=1)[1]
    assert "wants --model and no --url" in run(folder, tmp_path / "out", "--embedded", code=2)[1]
    arguments = (folder, tmp_path / "out", "--embedded", "--model", "m", "--model-repository", tmp_path)
    assert "no model that nas-build has built" in run(*arguments, code=1)[1]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.nightly)])
def test_ctrl_c_ends_it_and_what_was_written_is_kept(
    number: int, server: Server, pictures: Callable[[int], Path], tmp_path: Path
) -> None:
    output = tmp_path / "out"
    started = command(pictures(240), output, "--url", server.grpc_url, "--batch", 16)
    with subprocess.Popen(started, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        assert until(lambda: len(list((output / "checkpoint").glob("*.parquet"))) > 1, 500) and process.poll() is None
        process.send_signal(number)
        _, errors = process.communicate(timeout=300)
    assert process.returncode == 130 and "interrupted" in errors and "Traceback" not in errors, errors
    assert 0 < len(rows(output)) < 240


def test_from_one_bucket_into_another(
    server: Server, pictures: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    moto = pytest.importorskip("moto.server", reason="moto is not installed")
    s3fs = pytest.importorskip("s3fs", reason="s3fs is not installed")
    store = moto.ThreadedMotoServer(port=0)
    store.start()
    try:
        url = f"http://127.0.0.1:{store.get_host_and_port()[1]}"
        environment = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_ENDPOINT_URL": url}
        environment["AWS_DEFAULT_REGION"] = "us-east-1"
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        files = s3fs.S3FileSystem()
        for bucket in ("given", "found"):
            files.mkdir(bucket)
        files.put(f"{pictures(5)}/", "given/pictures/", recursive=True)
        places = ("s3://given/pictures", "s3://found/run")
        summary, _ = run(*places, "--url", server.grpc_url, "--format", "coco", **environment)
        assert summary["pictures"] == 5 and summary["output"] == "s3://found/run/detections"
        assert len(json.loads(files.cat("found/run/coco.json"))["images"]) == 4
        assert run(*places, "--url", server.grpc_url, **environment)[0]["new"] == 0
    finally:
        store.stop()


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of two nodes of Ray, which want a token."""
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", 2 * uuid.uuid4().hex)
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    ray = [str(Path(sys.executable).parent / "ray"), "start", "--block", "--num-cpus", "3", "--disable-usage-stats"]
    head = [
        "--head",
        "--port",
        address.rpartition(":")[2],
        "--node-ip-address",
        "127.0.0.1",
        "--include-dashboard=false",
    ]
    started: list[subprocess.Popen[bytes]] = []
    try:
        for arguments in (head, ["--address", address]):
            _start_node([*ray, *arguments], tmp_path / "ray.log", started)
        yield address
    finally:
        for process in reversed(started):
            children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
            process.terminate()
            process.wait(300)
            for child in children:
                if child.is_running():
                    child.kill()


def _start_node(command: list[str], log: Path, started: list[subprocess.Popen[bytes]]) -> None:
    """Until it runs: on a busy machine Ray takes longer to start than it waits, and ends."""
    unbuffered = os.environ | {"PYTHONUNBUFFERED": "1"}
    for _ in range(3):
        with log.open("w") as file:
            process = subprocess.Popen(command, stdout=file, stderr=file, env=unbuffered, start_new_session=True)
        started.append(process)
        running = "Ray runtime started"
        assert until(lambda: running in log.read_text() or process.poll() is not None, 300), log.read_text()  # noqa: B023
        if process.poll() is None:
            return
    raise AssertionError(log.read_text())


def test_killed_in_its_middle_it_goes_on_and_every_picture_appears_once(
    server: Server, cluster: str, pictures: Callable[[int], Path], tmp_path: Path
) -> None:
    """The driver, then a worker and Triton while the rest is done."""
    folder, output = pictures(COUNT), tmp_path / "out"
    arguments = (folder, output, "--url", server.grpc_url, "--batch", max(16, COUNT // 40), "--address", cluster)
    started = command(*arguments)
    with subprocess.Popen(started, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as first:
        assert until(lambda: len(list((output / "checkpoint").glob("*.parquet"))) > 2 or first.poll() is not None, 500)
        assert first.poll() is None, first.communicate()[1]
        first.kill()
    done = len(rows(output))
    assert 0 < done < COUNT
    with subprocess.Popen(started, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as second:
        assert until(lambda: len(rows(output)) > done, 500) and second.poll() is None
        _newest("ray::MapWorker(MapBatches(Worker))", psutil.process_iter()).kill()
        time.sleep(2)
        _newest("tritonserver", psutil.Process().children(recursive=True)).kill()
        _, errors = second.communicate(timeout=900)
    assert second.returncode == 0, errors
    found = [row["id"] for row in rows(output)]
    assert sorted(found) == sorted(str(path.relative_to(folder)) for path in folder.rglob("*.jpg"))
    assert {row["error"] is None for row in rows(output) if row["id"] != "broken.jpg"} == {True}


def _newest(words: str, processes: Iterable[psutil.Process]) -> psutil.Process:
    """Of those whose command line begins with these words, the name of a program perhaps."""
    found = []
    for process in processes:
        with contextlib.suppress(psutil.Error):
            if process.name() == words or " ".join(process.cmdline()).startswith(words):
                found.append(process)
    return max(found, key=psutil.Process.create_time)
