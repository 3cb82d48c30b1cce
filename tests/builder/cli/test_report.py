from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from nas_build import pipeline

from support.builds import Built


def report_of(repository: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [Path(sys.executable).parent / "nas-build", "report", *arguments, "--model-repository", repository]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture(scope="module")
def repository(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the model in both precisions."""
    folder = tmp_path_factory.mktemp("both")
    shutil.copytree(built.folder, folder, dirs_exist_ok=True)
    pipeline.build(replace(built.options, precision="fp16", model_repository=folder))
    return folder


def test_report(repository: Path) -> None:
    table = report_of(repository, "yolo_nas_s_int8", "--worst", 5)
    assert table.returncode == 0 and table.stdout.count("│ int8") == 5
    assert "Activations: uint8" in table.stdout and "of the known answer" in table.stdout.replace("\n", " ")
    assert "4 held-out pictures with" in table.stdout and "loss" in table.stdout
    whole = json.loads(report_of(repository, "yolo_nas_s_int8", "--json").stdout)
    assert len(whole["layers"]) == 100 and whole["int8"]["accuracy"]["loss"] < 10
    noises = [
        min(layer["input_snr_db"], layer["weight_snr_db"]) for layer in whole["layers"].values() if len(layer) > 1
    ]
    worst = json.loads(report_of(repository, "yolo_nas_s_int8", "--json", "--worst", 1).stdout)["layers"]
    assert min(noises) == min(next(iter(worst.values()))[key] for key in ("input_snr_db", "weight_snr_db"))
    half = report_of(repository, "yolo_nas_s_fp16")
    assert half.returncode == 0 and "fp16" in half.stdout and "Ranges" not in half.stdout
    missing = report_of(repository, "nope")
    assert missing.returncode == 1 and "no model nope" in missing.stderr and "yolo_nas_s_fp16" in missing.stderr


def test_the_table_of_a_build_shows_the_loss(repository: Path, quarter_checkpoint: Path) -> None:
    command = [Path(sys.executable).parent / "nas-build", "--weights", quarter_checkpoint, "--precision", "int8"]
    command += ["--target", "openvino", "--model-repository", repository]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300, check=True)
    assert "mAP loss" in done.stdout and "nas-build report yolo_nas_s_int8" in done.stdout
