from __future__ import annotations

from pathlib import Path

import pytest
from nas_build.errors import CheckpointError, DownloadError
from nas_build.options import Variant
from nas_build.progress import SILENT
from nas_build.yolo_nas import weights
from nas_eval.downloads import Download


def test_official_files_are_pinned() -> None:
    assert set(weights.OFFICIAL) == {"s", "m", "l"}
    for official in weights.OFFICIAL.values():
        assert len(official.sha256) == 64 and all(url.startswith("https://") for url in official.urls)


def test_resolve(tmp_path: Path) -> None:
    def resolve(what: str, variant: Variant | None = None) -> Path:
        return weights.resolve(what, variant, SILENT)

    (tmp_path / "best_m.pth").touch()
    assert resolve("demo").name == "yolo_nas_s_demo.safetensors"
    assert resolve(str(tmp_path / "best_{variant}.pth"), "m").name == "best_m.pth"
    with pytest.raises(CheckpointError, match="the demo checkpoint is YOLO-NAS S; there is none for M"):
        resolve("demo", "m")
    with pytest.raises(CheckpointError, match="no such file. Expected coco, demo, or a checkpoint"):
        resolve(str(tmp_path / "best_{variant}.pth"), "l")


def test_weights_that_cannot_be_had_name_the_ways_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NAS_CACHE", str(tmp_path))
    gone = Download("yolo_nas_s_coco.pth", "0" * 64, ("http://127.0.0.1:9/gone",))
    monkeypatch.setitem(weights.OFFICIAL, "s", gone)
    with pytest.raises(DownloadError, match=r"9/gone.*(\n|.)*put it at .*Or give its path; the demo") as caught:
        weights.resolve("coco", "s", SILENT)
    assert caught.value.options == ("weights=FILE", "weights=demo")
