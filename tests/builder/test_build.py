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
import torch
from conftest import DEMO, SAMPLES
from nas_build import pipeline
from nas_build.errors import BuildError, CalibrationError
from nas_build.pipeline import Options, Reporter
from nas_build.yolo_nas import network
from nas_build.yolo_nas.variants import RANGE_METHODS
from safetensors.torch import save_file

BIN = Path(sys.executable).parent
NAME = "yolo_nas_s_int8"


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def options(folder: Path, **changes: object) -> Options:
    return Options(**{"weights": "demo", "variant": "s", "precision": "int8", "model_repository": folder, **changes})  # type: ignore[arg-type]


def run_cli(*arguments: object, **kwargs: object) -> subprocess.CompletedProcess[str]:
    command = [str(BIN / "nas-build"), "--target", "openvino", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **kwargs)  # type: ignore[call-overload,no-any-return]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("built")
    pipeline.build(options(folder))
    return folder


def test_all_six_are_built(six_builds: tuple[Path, dict[str, BuildError]]) -> None:
    """What else wants them is skipped if this fails."""
    _, failed = six_builds
    assert not failed


def test_the_same_inputs_give_the_same_bytes(built: Path, tmp_path: Path) -> None:
    result = pipeline.build(options(tmp_path))
    assert result.built and result.version == 1
    assert list(result.seconds) == [
        *("export", "calibrate", "round weights", "held-out pictures", "choose ranges"),
        *("accuracy", "check", "engine", "install"),
    ]
    assert tree(tmp_path) == tree(built)


def test_up_to_date_is_a_no_op(built: Path) -> None:
    before = tree(built)
    result = pipeline.build(options(built))
    assert not result.built and result.version == 1
    assert tree(built) == before


def test_manifest_holds_what_went_in_and_what_was_measured(built: Path) -> None:
    manifest = json.loads((built / NAME / "1" / "manifest.json").read_text(encoding="utf-8"))
    inputs = manifest["inputs"]
    assert inputs["checkpoint_sha256"] == "8cb5aaff75397f4828199fdb3cc7f2d14303877000d9eb07a83b1784050d3fad"
    assert sorted(inputs["pictures"]) == [
        f"samples/{n}" for n in ("astronaut.png", "bus.jpg", "chelsea.png", "coffee.png")
    ]
    assert inputs["versions"].keys() >= {"torch", "onnx", "openvino", "nas-triton"}
    layers = manifest["layers"]
    assert len(layers) == 100
    assert [name for name, layer in layers.items() if layer["precision"] != "int8"] == [
        "neck.neck1.upsample",
        "neck.neck2.upsample",
    ]
    for name, layer in layers.items():
        if layer["precision"] == "int8":
            assert layer["input_snr_db"] > 20 and layer["weight_snr_db"] > 35
            assert layer["activations"] == "uint8"
            assert (layer["low"] < 0) == (layer["zero_point"] > 0) == ("reduce_after_concat" in name)
    int8 = manifest["int8"]
    assert int8["activations"] == "uint8"
    assert int8["truth"] == "float32" and int8["held_out_pictures"] == 4 and int8["kept_fp16"] == []
    assert int8["disturbance"].keys() == set(RANGE_METHODS)
    assert min(int8["disturbance"], key=int8["disturbance"].get) == int8["method"]
    assert int8["accuracy"]["map_50_95_float32"] == 100 and int8["accuracy"]["loss"] < 10  # 13 objects
    agreement = manifest["agreement"]
    assert agreement["detections_found"] == agreement["detections"] >= 8
    assert manifest["processing"]["letterbox"]["fit_hw"] == [636, 636]


def test_another_input_is_a_new_version_and_force_too(tmp_path: Path) -> None:
    fp16 = {"precision": "fp16"}
    assert pipeline.build(options(tmp_path, **fp16)).version == 1
    assert pipeline.build(options(tmp_path, **fp16, max_batch_size=2)).version == 2
    first = pipeline.build(options(tmp_path, **fp16, max_batch_size=2, force=True))
    assert first.built and first.version == 3
    one, two = (tmp_path / f"yolo_nas_s_fp16_engine/{v}/model.onnx" for v in (2, 3))
    assert one.read_bytes() == two.read_bytes()


def test_warns_when_calibrated_on_the_samples_only(tmp_path: Path) -> None:
    warnings: list[str] = []
    pipeline.build(options(tmp_path), Reporter(warn=warnings.append))
    assert any("bundled samples" in warning and "--calibration" in warning for warning in warnings)


def test_unreadable_calibration_pictures_are_named_and_left_out(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / "a.jpg").write_bytes((SAMPLES / "bus.jpg").read_bytes())
    (folder / "b.png").write_bytes(b"no picture")
    warnings: list[str] = []
    # Unreadable ones are no held-out pictures either.
    result = pipeline.build(options(tmp_path / "m", calibration=folder), Reporter(warn=warnings.append))
    assert result.built and any("b.png: left out: 10 bytes that are no" in warning for warning in warnings)
    (folder / "a.jpg").unlink()
    with pytest.raises(CalibrationError, match="none of the 1 pictures"):
        pipeline.build(options(tmp_path / "n", calibration=folder))
    (folder / "b.png").unlink()
    with pytest.raises(CalibrationError, match="no pictures in it; expected .bmp, .jpeg"):
        pipeline.build(options(tmp_path / "n", calibration=folder))
    with pytest.raises(CalibrationError, match="no such folder"):
        pipeline.build(options(tmp_path / "n", calibration=folder / "x"))
    assert not (tmp_path / "n").exists() or tree(tmp_path / "n") == {}


def test_variant_of_the_file_must_be_the_one_asked_for(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="holds YOLO-NAS S, not M. Build it with --variant s"):
        pipeline.build(options(tmp_path, weights=str(DEMO), variant="m"))


def test_class_names_from_a_file(tmp_path: Path) -> None:
    network_file, names = tmp_path / "two.safetensors", tmp_path / "names.txt"
    torch.manual_seed(0)
    save_file({k: v.contiguous() for k, v in network.build("s", 2).state_dict().items()}, network_file)
    names.write_text("Würfel\nball\n", encoding="utf-8")
    folder = tmp_path / "m"
    arguments = options(folder, weights=str(network_file), variant=None, precision="fp16", class_names=names)
    assert pipeline.build(arguments).name == "yolo_nas_s_fp16"
    assert "Würfel" in (folder / "yolo_nas_s_fp16/config.pbtxt").read_text(encoding="utf-8")
    names.write_text("one\n")
    with pytest.raises(BuildError, match="1 names; the network has 2 classes"):
        pipeline.build(arguments)
    warnings: list[str] = []
    pipeline.build(options(tmp_path / "n", weights=str(network_file), precision="fp16"), Reporter(warn=warnings.append))
    assert any("class_0" in warning for warning in warnings)


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
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and "interrupted" in errors and "Traceback" not in errors
    assert not any(path.is_file() for path in tmp_path.rglob("*"))


def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    """No file may grow beyond 1 MB, as if the disk filled up while the graph is written."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))

    result = run_cli("--weights", "demo", "--model-repository", tmp_path / "m", preexec_fn=limit)
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
    assert "could not be downloaded" in result.stderr and "--weights demo needs no download" in result.stderr


def test_info_as_json() -> None:
    result = run_cli("info", "--json")
    assert [round(entry["parameters"] / 1e6, 2) for entry in json.loads(result.stdout)] == [19.05, 51.18, 66.98]


def test_json_report(built: Path) -> None:
    result = run_cli(
        "--weights", "demo", "--variant", "s", "--precision", "int8", "--model-repository", built, "--json"
    )
    (report,) = json.loads(result.stdout)
    assert report["name"] == NAME and report["built"] is False
