from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support.samples import DEMO

NAS_BUILD = Path(sys.executable).parent / "nas-build"


def export(*arguments: object, **kwargs: object) -> subprocess.CompletedProcess[str]:
    command = [str(NAS_BUILD), "export", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, **kwargs)  # type: ignore[call-overload,no-any-return]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["demo", "--format", "coreml"], 2, "'coreml' is not one of 'onnx', 'frigate'"),
        (["demo"], 2, "Missing option '--format'"),
        (["--format", "onnx"], 2, "give one checkpoint"),
        (["demo", "--weights", "demo", "--format", "onnx"], 2, "give one checkpoint"),
        (["demo", "--format", "onnx", "--size", "100"], 2, "multiples of 32, got 100 x 100"),
        (["demo", "--format", "onnx", "--size", "big"], 2, "expected pixels"),
        (["demo", "--format", "onnx", "--batch", "many"], 2, "expected a number or dynamic"),
        (["demo", "--format", "onnx", "--batch", "0"], 2, "must be 1 or more"),
        (["demo", "--format", "onnx", "--iou-threshold", "0.5"], 1, "onnx has no such option. (--iou-threshold)"),
        (["demo", "--format", "onnx", "--output", "nope/x.onnx"], 1, "nope: no such folder"),
        (["demo", "--format", "onnx", "--output", "/proc/x.onnx"], 1, "/proc: cannot be written"),
        (["demo", "--format", "onnx", "--variant", "m"], 1, "there is none for M"),
        (["nope.pth", "--format", "onnx"], 1, "nope.pth: no such file"),
    ],
)
def test_messages(arguments: list[str], code: int, message: str, tmp_path: Path) -> None:
    result = export(*arguments, cwd=tmp_path)
    assert result.returncode == code, result.stderr
    assert message in " ".join(result.stderr.replace("│", " ").split()) and "Traceback" not in result.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_file_that_is_there_needs_force(quarter_checkpoint: Path, tmp_path: Path) -> None:
    first = export(quarter_checkpoint, "--format", "frigate", cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    assert "as PyTorch's" in first.stdout and "model_type: yolonas" in first.stdout
    assert "Compared on 4 pictures, by onnxruntime" in first.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["labelmap.txt", "quarter_frigate.onnx"]
    again = export(quarter_checkpoint, "--format", "frigate", cwd=tmp_path)
    assert again.returncode == 1 and "quarter_frigate.onnx: is there already. (--force, --output)" in again.stderr
    forced = export(
        "--weights",
        quarter_checkpoint,
        "--format",
        "frigate",
        "--force",
        "--json",
        "--score-threshold",
        0.6,
        cwd=tmp_path,
    )
    report = json.loads(forced.stdout)
    assert forced.returncode == 0 and not forced.stderr
    assert report["files"] == ["quarter_frigate.onnx", "labelmap.txt"] and report["format"] == "frigate"
    assert json.loads(report["metadata"]["thresholds"]) == {"score": 0.6, "iou": 0.7, "max_detections": 20}
    assert report["agreement"]["detections"] > 0 and report["inputs"] == {"input": "uint8 [1, 3, 320, 320]"}


@pytest.mark.slow
def test_labels_of_another_model_are_not_written_over(quarter_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("cat\n")
    result = export(quarter_checkpoint, "--format", "deepstream", cwd=tmp_path)
    assert result.returncode == 1 and "labels.txt: is there already" in result.stderr
    assert (tmp_path / "labels.txt").read_text() == "cat\n"


@pytest.mark.slow
def test_a_full_disk_keeps_what_was_there(quarter_checkpoint: Path, tmp_path: Path) -> None:
    """No file may grow beyond 1 MB, as if the disk filled up."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))

    (tmp_path / "x.onnx").write_text("before")
    arguments = [quarter_checkpoint, "--format", "onnx", "--output", tmp_path / "x.onnx", "--force"]
    result = export(*arguments, preexec_fn=limit)
    assert result.returncode == 1 and "cannot be written: File too large. Nothing was written" in result.stderr
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"x.onnx": "before"}


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_export_leaves_nothing(number: int, tmp_path: Path) -> None:
    command = [str(NAS_BUILD), "export", str(DEMO), "--format", "sg-flat", "--output", str(tmp_path / "x.onnx")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        maps = Path(f"/proc/{process.pid}/maps")
        while "libtorch_cpu" not in maps.read_text():
            assert process.poll() is None
            time.sleep(0.05)
        time.sleep(1.5)
        process.send_signal(number)
        _, errors = process.communicate(timeout=300)
    assert process.returncode == 130 and "interrupted" in errors and "Traceback" not in errors
    assert not list(tmp_path.iterdir())
