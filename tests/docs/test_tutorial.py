"""The commands of docs/tutorial.md, as they stand there, in order, with a small checkpoint and a data set."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import pytest
import torch
import yaml
from nas_client import Detector
from nas_client.bench import perf_analyzer
from nas_client.errors import BenchError
from nas_eval.coco_names import COCO_NAMES
from nas_serve import Server
from safetensors.torch import load_file

from support.samples import DEMO, PICTURES, QUARTER_PROCESSING, ROOT

pytestmark = pytest.mark.nightly
BIN = Path(sys.executable).parent
BLOCKS = re.findall(r"^```\n(.*?)^```", (ROOT / "docs/tutorial.md").read_text(), re.MULTILINE | re.DOTALL)
COMMANDS = [line.partition(" #")[0].strip() for block in BLOCKS for line in block.splitlines()]


@pytest.fixture
def folder(tmp_path: Path, server: Server) -> Path:
    """With the reader's files: a checkpoint, pictures, a labelled data set and a video."""
    # A quarter of the canvas: the same commands in a quarter of the time.
    torch.save({"net": load_file(DEMO), "processing_params": QUARTER_PROCESSING}, tmp_path / "best.pth")
    (tmp_path / "pictures").mkdir()
    with Detector(server.grpc_url, "yolo_nas_s_fp16") as detector:
        for split in ("train", "val"):
            for kind in ("images", "labels"):
                (tmp_path / "set" / kind / split).mkdir(parents=True)
            for path in PICTURES:
                shutil.copy(path, tmp_path / "pictures")
                shutil.copy(path, tmp_path / "set/images" / split)
                height, width = cv2.imread(str(path)).shape[:2]
                found = detector.detect(path, score_threshold=0.5)
                lines = [
                    f"{label} {(x1 + x2) / 2 / width} {(y1 + y2) / 2 / height} {(x2 - x1) / width} {(y2 - y1) / height}"
                    for label, (x1, y1, x2, y2) in zip(found.labels, found.boxes_xyxy, strict=True)
                ]
                (tmp_path / "set/labels" / split / f"{path.stem}.txt").write_text("\n".join(lines))
    data = {"path": "set", "train": "images/train", "val": "images/val", "names": dict(enumerate(COCO_NAMES))}
    (tmp_path / "data.yaml").write_text(yaml.safe_dump(data))
    video = cv2.VideoWriter(str(tmp_path / "clip.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 10, (320, 240))
    for _ in range(5):
        video.write(cv2.resize(cv2.imread(str(PICTURES[0])), (320, 240)))
    video.release()
    return tmp_path


@contextlib.contextmanager
def serving(folder: Path, environment: dict[str, str]) -> Iterator[None]:
    """`nas-serve` on free ports, which the environment then names."""
    command = [BIN / "nas-serve", "--http-port", "0", "--grpc-port", "0", "--metrics-port", "0"]
    with subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            for line in process.stderr:
                if ready := re.search(r"gRPC (\S+), HTTP (\S+),", line):
                    environment["NAS_URL"], environment["NAS_HTTP_URL"] = ready.groups()
                    break
            yield
        finally:
            process.terminate()
            process.communicate()


def test_every_command_works(folder: Path) -> None:
    assert len(COMMANDS) >= 11 and COMMANDS[0] == "nas-build --weights best.pth"
    environment = os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}"}
    try:
        perf_analyzer.find()
        benches = True
    except BenchError:
        benches = False
    with contextlib.ExitStack() as stack:
        for line in COMMANDS:
            if line == "nas-serve":
                stack.enter_context(serving(folder, environment))
                continue
            if line.startswith("nas-client bench"):
                if not benches:
                    continue
                command, redirection, target = line.partition(" > ")
                line = f"{command} --concurrency 1 --rounds 1 --window 0.2{redirection}{target}"  # it takes minutes
            done = subprocess.run(
                line, shell=True, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
            )
            assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
    assert {"bus.jpg", "clip.mp4"} <= {path.name for path in (folder / "out").iterdir()}
    assert list((folder / "runs").rglob("*.png"))
