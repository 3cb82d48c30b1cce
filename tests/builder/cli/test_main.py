from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from nas_build import Options, pipeline

NAME = "yolo_nas_s_int8"


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


BIN = Path(sys.executable).parent


def run_cli(*arguments: object, **kwargs: object) -> subprocess.CompletedProcess[str]:
    command = [str(BIN / "nas-build"), "--target", "openvino", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **kwargs)  # type: ignore[call-overload,no-any-return]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_build_leaves_nothing(number: int, tmp_path: Path) -> None:
    command = [str(BIN / "nas-build"), "--weights", "demo", "--precision", "int8", "--model-repository", str(tmp_path)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        maps = Path(f"/proc/{process.pid}/maps")
        while "libtorch_cpu" not in maps.read_text():  # help and no-op builds do not load it: this is the work
            assert process.poll() is None
            time.sleep(0.05)
        time.sleep(1.5)
        process.send_signal(number)
        _, errors = process.communicate(timeout=300)
    assert process.returncode == 130 and "interrupted" in errors and "Traceback" not in errors
    assert not any(path.is_file() for path in tmp_path.rglob("*"))


def test_a_full_disk_leaves_nothing(quarter_checkpoint: Path, tmp_path: Path) -> None:
    """No file may grow beyond 1 MB, as if the disk filled up while the graph is written."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))

    result = run_cli("--weights", quarter_checkpoint, "--model-repository", tmp_path / "m", preexec_fn=limit)
    assert result.returncode == 1
    assert "cannot write the model repository: File too large. Nothing was installed" in result.stderr
    assert tree(tmp_path) == {}


def test_a_read_only_repository(tmp_path: Path) -> None:
    """Root writes anywhere unless it gives up that capability."""
    pr_capbset_drop, cap_dac_override = 24, 1
    folder = tmp_path / "models"
    folder.mkdir(mode=0o500)
    drop = partial(ctypes.CDLL(None).prctl, pr_capbset_drop, cap_dac_override, 0, 0, 0)
    result = run_cli("--weights", "demo", "--model-repository", folder, preexec_fn=drop)
    assert result.returncode == 1 and list(folder.iterdir()) == []
    assert "cannot write the model repository: Permission denied. Nothing was installed" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--weights", "nope.pth"], 1, "nope.pth: no such file"),
        (["--weights", "demo", "--variant", "m"], 1, "there is none for M"),
        (["--weights", "x.pth", "--variant", "all"], 2, "one file holds one variant"),
        (["--weights", "demo", "--precision", "all", "--name", "x"], 2, "names one model"),
        (["--weights", "demo", "--name", "../x"], 2, "letters, digits"),
        (["--weights", "demo", "--precision", "int4"], 2, "fp16"),
        (["--weights", "demo", "--model-repository", "/proc/nope"], 1, "cannot write the model repository"),
        (["info", "--size", "100"], 2, "multiple of 32"),
    ],
)
def test_messages(arguments: list[str], code: int, message: str, tmp_path: Path) -> None:
    result = run_cli(*arguments, cwd=tmp_path)
    assert result.returncode == code, result.stderr
    assert message in " ".join(result.stderr.replace("│", " ").split()) and "Traceback" not in result.stderr


def test_a_download_that_fails_says_what_to_do(tmp_path: Path) -> None:
    """No official file can be had: every URL is answered by a proxy that refuses."""
    environment = os.environ | {"NAS_CACHE": str(tmp_path), "HTTPS_PROXY": "http://127.0.0.1:9", "ALL_PROXY": ""}
    result = run_cli("--precision", "int8", "--model-repository", tmp_path / "m", env=environment)
    assert result.returncode == 1
    assert "non-commercial use only" in result.stderr
    assert (
        "could not be downloaded" in result.stderr
        and "the demo weights need no download. (--weights FILE, --weights demo)" in result.stderr
    )


@pytest.mark.slow
def test_info_as_json() -> None:
    result = run_cli("info", "--json")
    assert [round(entry["parameters"] / 1e6, 2) for entry in json.loads(result.stdout)] == [19.05, 51.18, 66.98]


def test_json_report(quarter_checkpoint: Path, tmp_path: Path) -> None:
    """Of the same build by the library, which has the same defaults."""
    pipeline.build(Options(quarter_checkpoint, precision="fp16", model_repository=tmp_path))
    result = run_cli("--weights", quarter_checkpoint, "--model-repository", tmp_path, "--json")
    (report,) = json.loads(result.stdout)
    assert report["name"] == "yolo_nas_s_fp16" and report["built"] is False
