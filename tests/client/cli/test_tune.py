"""nas-client tune with real servers, a real perf_analyzer and a real picture."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from nas_client.bench import perf_analyzer
from nas_client.errors import BenchError
from nas_client.tune.settings import Settings

from support.commands import CLIENT
from support.samples import SAMPLES
from support.waiting import until

MODEL = "yolo_nas_s_int8"
BUS = SAMPLES / "bus.jpg"
FEW = ("--concurrency", "1", "--window", "1.5", "--batch", "8", "--instances", "1")


@pytest.fixture(scope="module")
def analyzer() -> None:
    try:
        perf_analyzer.find()
    except BenchError as error:
        pytest.skip(str(error))


@pytest.fixture
def models(repository: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    for path in repository.glob(f"{MODEL}*"):
        shutil.copytree(path, folder / path.name)
    return folder


def command(models: Path, *arguments: object) -> list[str]:
    return [str(CLIENT), "tune", str(BUS), "--model-repository", str(models), *map(str, arguments)]


def tune(models: Path, *arguments: object, code: int = 0) -> tuple[dict[str, Any], str]:
    done = subprocess.run(
        command(models, *arguments, "--json"), capture_output=True, text=True, timeout=500, check=False
    )
    assert done.returncode == code and "Traceback" not in done.stderr, done.stderr
    return json.loads(done.stdout) if done.stdout else {}, done.stderr


def none_is_left(models: Path) -> Callable[[], bool]:
    """No server of a copy of theirs, and no copy."""

    def look() -> bool:
        of_theirs = [
            p for p in psutil.process_iter(["cmdline"]) if str(models.parent) in " ".join(p.info["cmdline"] or ())
        ]
        return not of_theirs and not list(models.parent.glob(".nas-client-tune-*"))

    return look


@pytest.mark.slow
def test_the_best_is_written_if_it_is_better(analyzer: None, models: Path, tmp_path: Path) -> None:
    slow = Settings(max_batch_size=8, queue_delay_us=300_000, instances=1)  # one request alone waits so long
    slow.write(models, MODEL)
    said, _ = tune(models, *FEW, "--p99", "10s", "--queue-delay-us", 0, "--plot", tmp_path / "tune.png")
    assert said["given"]["queue_delay_us"] == 300_000 and len(said["tried"]) == 2
    assert said["best"]["queue_delay_us"] == 0 and said["gain"] > 1.03 and said["written"]
    assert Settings.read(models, MODEL) == Settings(8, 0, 1)
    assert (tmp_path / "tune.png").read_bytes().startswith(b"\x89PNG") and until(none_is_left(models))


@pytest.mark.slow
def test_by_a_command_and_without_changing_anything(analyzer: None, models: Path) -> None:
    ports = "--http-port 0 --grpc-port 18731 --metrics-port 0"
    serve = f'exec {Path(sys.executable).with_name("nas-serve")} --model-repository "$MODEL_REPOSITORY" {ports}'
    before = (models / f"{MODEL}_engine" / "config.pbtxt").read_bytes()
    by = ("--serve", serve, "--url", "localhost:18731", "--queue-delay-us", "0", "--dry-run")
    said, _ = tune(models, *FEW, *by, "--p99", "0.001ms")
    assert not said["written"] and [one["settings"]["queue_delay_us"] for one in said["tried"]] == [0]
    assert (models / f"{MODEL}_engine" / "config.pbtxt").read_bytes() == before and until(none_is_left(models))


def test_a_command_that_serves_nothing_is_not_waited_for(analyzer: None, models: Path) -> None:
    by = ("--serve", "exit 3", "--url", "localhost:18732")
    errors = " ".join(tune(models, *FEW, *by, "--p99", "1s", code=1)[1].split())
    assert "the server ended with 3 before it answered" in errors and "no Triton server answers" in errors


@pytest.mark.slow
def test_ctrl_c_leaves_nothing(analyzer: None, models: Path) -> None:
    with subprocess.Popen(
        command(models, "--p99", "1s"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert until(lambda: not none_is_left(models)() and bool(list(models.parent.glob(".nas-client-tune-*"))))
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=300)
    assert process.returncode == 130 and "Traceback" not in errors, errors
    assert Settings.read(models, MODEL) == Settings(8, 0, 1) and until(none_is_left(models))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--p99", "soon"], "expected a time as 20ms or 0.5s"),
        (["--p99", "0ms"], "expected a time as 20ms or 0.5s"),
        (["--p99", "20ms", "--batch", "0"], "expected whole numbers from 1 with commas between"),
        (["--p99", "20ms", "--instances", "x"], "expected whole numbers from 1 with commas between"),
        (["--p99", "20ms", "--url", "localhost:8001"], "goes with --serve"),
    ],
)
def test_mistakes_of_the_command_line(arguments: list[str], message: str, tmp_path: Path) -> None:
    assert message in " ".join(tune(tmp_path, *arguments, code=2)[1].replace("│", " ").split())


def test_what_is_no_repository_is_named(analyzer: None, tmp_path: Path) -> None:
    assert "has no model that nas-build has built" in tune(tmp_path, "--p99", "20ms", code=1)[1].replace("\n", " ")
