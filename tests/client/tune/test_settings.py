"""Settings in the configs that the builder writes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from google.protobuf import text_format
from nas_client.errors import TuneError
from nas_client.tune.settings import Settings, copied, models
from tritonclient.grpc import model_config_pb2 as pb

from support.samples import ROOT

NAME = "yolo_nas_s_int8"


@pytest.fixture
def built(tmp_path: Path) -> Path:
    """A repository with the configs of a model, and a large file."""
    for path in (ROOT / "tests/golden").glob(f"{NAME}*.pbtxt"):
        if path.stem.endswith("_tensorrt"):
            continue
        folder = tmp_path / "models" / path.stem
        (folder / "1").mkdir(parents=True)
        shutil.copy(path, folder / "config.pbtxt")
    (tmp_path / f"models/{NAME}_engine/1/model.onnx").write_bytes(b"large")
    (tmp_path / f"models/{NAME}/1/manifest.json").write_text("{}")
    return tmp_path / "models"


def config(repository: Path, model: str) -> pb.ModelConfig:
    return text_format.Parse((repository / model / "config.pbtxt").read_text(), pb.ModelConfig())


def test_what_is_written_is_read_and_the_rest_stays(built: Path) -> None:
    given = Settings.read(built, NAME)
    assert given == Settings(8, 0, 1) and models(built) == [NAME]
    before = {path.name: config(built, path.name) for path in built.iterdir()}
    wanted = Settings(max_batch_size=4, queue_delay_us=500, instances=2)
    wanted.write(built, NAME)
    assert Settings.read(built, NAME) == wanted
    assert {config(built, name).max_batch_size for name in before} == {4}
    assert {w.batch_size for w in config(built, f"{NAME}_engine").model_warmup} == {1, 4}
    assert config(built, f"{NAME}_preprocess").instance_group[0].count == 1
    given.write(built, NAME)
    after = {name: config(built, name) for name in before}
    for one in (before, after):
        del one[f"{NAME}_engine"].model_warmup[:]
    assert after == before
    assert not [path for path in built.rglob("*") if path.name.endswith(".part")]


def test_a_copy_is_of_the_same_files_but_for_the_configs(built: Path) -> None:
    (built / "another" / "1").mkdir(parents=True)
    engine = f"{NAME}_engine/1/model.onnx"
    with copied(built, NAME) as copy:
        assert (copy / engine).stat().st_ino == (built / engine).stat().st_ino and not (copy / "another").exists()
        Settings(1, 2000, 2).write(copy, NAME)
        assert Settings.read(built, NAME) == Settings(8, 0, 1)
    assert not copy.exists() and (built / engine).read_bytes() == b"large"


def test_what_is_no_model_of_ours_is_named(built: Path) -> None:
    with pytest.raises(TuneError, match="no such file or directory; expected a model that nas-build has built"):
        Settings.read(built, "nothing")
    (built / f"{NAME}_engine/config.pbtxt").write_text("what is this")
    with pytest.raises(TuneError, match="config.pbtxt: "):
        Settings(1, 0, 1).write(built, NAME)
    assert config(built, NAME).max_batch_size == 8
    with pytest.raises(TuneError, match="cannot be copied"), copied(built, "nothing"):
        pass
