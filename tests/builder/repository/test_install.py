from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import text_format
from nas_build.errors import RepositoryError
from nas_build.options import Options
from nas_build.progress import BuildProgress
from nas_build.repository import configs
from nas_build.repository import install as installing
from nas_build.repository.configs import ServedModel
from nas_build.repository.install import install, read_machine, read_manifest, versions
from nas_build.targets.openvino import OpenVINO
from nas_build.targets.tensorrt import TensorRT
from nas_build.targets.tensorrt.plan import Plan, PlanRequest
from nas_ensembles import contract
from nas_ensembles.known_answer import FILE, KnownAnswer
from nas_ensembles.letterbox import LetterboxSpec
from tritonclient.grpc import model_config_pb2 as pb

GOLDEN = Path(__file__).parents[2] / "golden"
MODEL = ServedModel(
    name="yolo_nas_s_int8",
    letterbox=LetterboxSpec(),
    candidates=1024,
    max_batch_size=8,
    max_pixels=50_000_000,
    thresholds=contract.Thresholds(),
    parameters={"class_names": ["Käfer", 'a "quoted" name'], "variant": "s", "precision": "int8"},
    target=OpenVINO(Options()),
)


class NoPlans:
    def identity(self) -> dict[str, str]:
        return {}

    def build(self, request: PlanRequest, progress: BuildProgress) -> Plan:
        raise NotImplementedError


KNOWN = KnownAnswer(
    np.full((2, 2, 3), 7, np.uint8), np.ones((1, 4), np.float32), np.ones(1, np.float32), np.ones(1, np.int32)
)
NAMES = [f"yolo_nas_s_int8{part}" for part in ("_preprocess", "_engine", "_postprocess", "_frames", "")]


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def golden(name: str) -> pb.ModelConfig:
    """The golden files were read line by line; they are parsed, so that layout does not matter."""
    return text_format.Parse((GOLDEN / f"{name}.pbtxt").read_text(encoding="utf-8"), pb.ModelConfig())


@pytest.mark.parametrize("name", NAMES)
def test_rendered_config_matches_golden(name: str) -> None:
    assert text_format.Parse(configs.render(MODEL.configs()[name]), pb.ModelConfig()) == golden(name)


def test_rendered_config_of_a_tensorrt_engine_matches_golden() -> None:
    target = TensorRT(Options(), NoPlans())
    tuned = {"engine_instances": target.engine_instances, "queue_delay_us": target.queue_delay_us}
    model = replace(MODEL, target=target, **tuned)
    rendered = {name: text_format.Parse(configs.render(c), pb.ModelConfig()) for name, c in model.configs().items()}
    assert rendered["yolo_nas_s_int8_engine"] == golden("yolo_nas_s_int8_engine_tensorrt")
    assert rendered["yolo_nas_s_int8_preprocess"].instance_group[0].count == 2
    for name in set(NAMES) - {"yolo_nas_s_int8_engine", "yolo_nas_s_int8_preprocess"}:  # the target changes no other
        assert rendered[name] == golden(name)


def test_install_writes_a_self_contained_repository(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    assert install(folder, MODEL, b"graph", KNOWN, {"inputs": {"x": 1}}, {}) == 1
    assert sorted(p.name for p in folder.iterdir()) == sorted(NAMES)
    assert (folder / "yolo_nas_s_int8_engine/1/model.onnx").read_bytes() == b"graph"
    for stage in ("preprocess", "postprocess"):
        files = {p.name for p in (folder / f"yolo_nas_s_int8_{stage}/1").rglob("*.py")}
        helpers = ("contract", "cores", "images", "letterbox", "memory", "nms", "opencv", "pipeline")
        assert files == {"model.py", "__init__.py", *(f"{helper}.py" for helper in helpers)}
    manifest = read_manifest(folder, MODEL.name)
    assert manifest and manifest["inputs"] == {"x": 1}
    assert len(manifest["files"]) == len(tree(folder)) - 2  # manifest.json itself, machine.json


def test_the_next_install_is_a_new_version_and_the_old_one_stays(tmp_path: Path) -> None:
    install(tmp_path, MODEL, b"old", KNOWN, {}, {})
    before = tree(tmp_path)
    assert install(tmp_path, MODEL, b"new", KNOWN, {}, {}) == 2
    after = tree(tmp_path)
    engine_config = "yolo_nas_s_int8_engine/config.pbtxt"  # has the known answer of the newest
    assert before.items() - after.items() == {(engine_config, before[engine_config])}
    assert all(versions(tmp_path, name) == [1, 2] for name in NAMES)
    assert after["yolo_nas_s_int8_engine/2/model.onnx"] == b"new"


def test_two_installs_are_the_same_bytes(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        install(tmp_path / folder, MODEL, b"graph", KNOWN, {"inputs": {}}, {})
    assert tree(tmp_path / "a") == tree(tmp_path / "b")


def test_the_known_answer_lies_beside_the_engine_and_in_its_config(tmp_path: Path) -> None:
    install(tmp_path, MODEL, b"old", KNOWN, {}, {})
    install(tmp_path, MODEL, b"new", KNOWN, {}, {})
    engine = tmp_path / "yolo_nas_s_int8_engine"
    assert json.loads((engine / "2" / FILE).read_text()) == KNOWN.to_dict()
    config = text_format.Parse((engine / "config.pbtxt").read_text(), pb.ModelConfig())
    assert json.loads(config.parameters["known_answer"].string_value) == {"version": 2, **KNOWN.to_dict()}


def test_what_depends_on_the_machine_is_in_a_file_of_its_own(tmp_path: Path) -> None:
    for folder, machine in (("a", {"cpu": "one"}), ("b", {"cpu": "another"})):
        install(tmp_path / folder, MODEL, b"graph", KNOWN, {}, machine)
        assert read_machine(tmp_path / folder, MODEL.name) == machine
    a, b = tree(tmp_path / "a"), tree(tmp_path / "b")
    assert {path for path in a if a[path] != b[path]} == {"yolo_nas_s_int8/1/machine.json"}
    (tmp_path / "a/yolo_nas_s_int8/1/machine.json").unlink()
    assert read_machine(tmp_path / "a", MODEL.name) == {} and read_manifest(tmp_path / "a", MODEL.name) is not None


@pytest.mark.parametrize("change", ["removed", "changed", "manifest"])
def test_a_manifest_counts_only_while_its_files_are_intact(change: str, tmp_path: Path) -> None:
    install(tmp_path, MODEL, b"graph", KNOWN, {}, {})
    graph = tmp_path / "yolo_nas_s_int8_engine/1/model.onnx"
    if change == "removed":
        graph.unlink()
    elif change == "changed":
        graph.write_bytes(b"other")
    else:
        (tmp_path / "yolo_nas_s_int8/1/manifest.json").write_text("{")
    assert read_manifest(tmp_path, MODEL.name) is None


def test_a_config_changed_by_hand_is_kept(tmp_path: Path) -> None:
    install(tmp_path, MODEL, b"graph", KNOWN, {}, {})
    config = tmp_path / "yolo_nas_s_int8_engine" / "config.pbtxt"
    config.write_text(config.read_text().replace("count: 1", "count: 2"))
    assert read_manifest(tmp_path, MODEL.name) is not None
    config.unlink()
    assert read_manifest(tmp_path, MODEL.name) is None


@pytest.mark.parametrize("fails_at", range(1, 11))
@pytest.mark.parametrize("earlier", [False, True])
def test_a_failure_at_any_rename_leaves_the_repository_as_it_was(
    fails_at: int, earlier: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if earlier:
        install(tmp_path, MODEL, b"old", KNOWN, {}, {})
    elif fails_at > 5:
        pytest.skip("a first install renames five folders")
    before = tree(tmp_path)
    calls = 0

    def failing(real: object) -> object:
        def rename(self: Path, target: Path) -> Path:
            nonlocal calls
            calls += 1
            if calls == fails_at:
                raise OSError(28, os.strerror(28))
            return real(self, target)  # type: ignore[operator,no-any-return]

        return rename

    monkeypatch.setattr(Path, "rename", failing(Path.rename))
    monkeypatch.setattr(Path, "replace", failing(Path.replace))
    changed = ServedModel(**{**MODEL.__dict__, "max_batch_size": 4})
    with pytest.raises(RepositoryError, match="No space left on device. Nothing was installed"):
        install(tmp_path, changed, b"new", KNOWN, {}, {})
    assert tree(tmp_path) == before
    assert not list(tmp_path.parent.glob(f".nas-build-{os.getpid()}-*"))


def test_leftovers_of_a_killed_build_are_removed(tmp_path: Path) -> None:
    left = tmp_path / ".nas-build-999999999-abc"
    left.mkdir()
    ours = tmp_path / f".nas-build-{os.getpid()}-abc"
    ours.mkdir()
    install(tmp_path / "models", MODEL, b"graph", KNOWN, {}, {})
    assert not left.exists() and ours.exists()


def test_nothing_but_models_is_ever_in_the_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton takes every folder there for a model, and one without a config stops a starting server."""
    seen: set[str] = set()
    real = installing._write
    monkeypatch.setattr(
        installing, "_write", lambda path, data: (seen.update(os.listdir(tmp_path / "models")), real(path, data))
    )
    install(tmp_path / "models", MODEL, b"graph", KNOWN, {}, {})
    install(tmp_path / "models", MODEL, b"other", KNOWN, {}, {})
    assert seen == set(NAMES)


def test_a_repository_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "models").write_text("")
    with pytest.raises(RepositoryError, match=r"models: cannot write the model repository: File exists") as caught:
        install(tmp_path / "models", MODEL, b"graph", KNOWN, {}, {})
    assert caught.value.options == ("model_repository",)
