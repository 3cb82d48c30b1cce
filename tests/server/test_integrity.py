"""Nothing is served that was changed since it was built, nor, with a key, what nobody signed."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from nas_client import Detector
from nas_ensembles import integrity
from nas_ensembles.integrity import IntegrityError
from nas_serve import Server, ServerError

from support.samples import SAMPLES

BIN = Path(sys.executable).parent
NAME = "yolo_nas_s_int8"


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two pairs: `ours`, `ours.pub`, `theirs`, `theirs.pub`."""
    folder = tmp_path_factory.mktemp("keys")
    for name in ("ours", "theirs"):
        private = ec.generate_private_key(ec.SECP256R1())
        encoding, no_password = serialization.Encoding.PEM, serialization.NoEncryption()
        (folder / name).write_bytes(private.private_bytes(encoding, serialization.PrivateFormat.PKCS8, no_password))
        (folder / f"{name}.pub").write_bytes(
            private.public_key().public_bytes(encoding, serialization.PublicFormat.SubjectPublicKeyInfo)
        )
    return {path.name: path for path in folder.iterdir()}


@pytest.fixture
def models(repository: Path, tmp_path: Path) -> Path:
    for path in repository.glob(f"{NAME}*"):
        shutil.copytree(path, tmp_path / "models" / path.name, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path / "models"


def engine(models: Path) -> Path:
    return max((models / f"{NAME}_engine").glob("*/model.onnx"))


def flip(path: Path, count: int = 200) -> None:
    data = bytearray(path.read_bytes())
    for i in range(0, len(data), max(1, len(data) // count)):
        data[i] ^= 1
    path.write_bytes(data)


def test_flipped_bytes_are_not_served(models: Path) -> None:
    assert integrity.check(models) == [NAME]
    flip(engine(models))
    for chosen in ((), (NAME,)):
        with pytest.raises(ServerError, match=r"model\.onnx: it is not what was built.*--force"):
            Server(models, models=chosen).start()
    next((models / NAME).glob("*/manifest.json")).unlink()  # what was changed on purpose
    assert integrity.check(models) == []


def test_a_config_may_be_tuned_by_hand(models: Path, keys: dict[str, Path]) -> None:
    config = models / f"{NAME}_engine" / "config.pbtxt"
    config.write_text(config.read_text() + "\n")
    integrity.check(models)
    integrity.sign(models, NAME, keys["ours"])
    integrity.check(models, public_key=keys["ours.pub"])
    config.write_text(config.read_text() + "\n")
    integrity.check(models)
    with pytest.raises(IntegrityError, match=r"engine/config\.pbtxt \(changed\)"):
        integrity.check(models, public_key=keys["ours.pub"])


def test_what_is_signed_is_served(models: Path, keys: dict[str, Path]) -> None:
    integrity.sign(models, NAME, keys["ours"])
    for _ in range(2):  # serving leaves nothing in it
        with Server(models, verify=keys["ours.pub"]) as server, Detector(server.grpc_url) as detector:
            assert "bus" in detector.detect(SAMPLES / "bus.jpg").names
    with pytest.raises(ServerError, match="cannot be verified"):
        Server(models, verify=keys["ours.pub"], poll_s=5).start()


def add_a_version(models: Path) -> None:
    newest = engine(models).parent
    shutil.copytree(newest, newest.with_name(str(int(newest.name) + 1)))


def add_bytecode(models: Path) -> None:
    (next((models / f"{NAME}_preprocess").glob("*/nas_ensembles")) / "__pycache__").mkdir()
    (next((models / f"{NAME}_preprocess").glob("*/nas_ensembles")) / "__pycache__" / "nms.cpython-311.pyc").touch()


def link(models: Path) -> None:
    target = engine(models)
    target.rename(models.parent / "elsewhere")
    target.symlink_to(models.parent / "elsewhere")


def sign_by_somebody_else(models: Path) -> None:
    integrity.sign(models, NAME, models.parent / "theirs")


ATTACKS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a byte of the engine": (lambda m: flip(engine(m), 1), "changed"),
    "a byte of a Python model": (lambda m: flip(next(m.glob("*_postprocess/*/model.py")), 1), "changed"),
    "a byte of the manifest": (lambda m: flip(next(m.glob("*/*/manifest.json")), 1), "no signature"),
    "a byte of the list": (lambda m: flip(next(m.glob("*/*/signed.json")), 1), "no signature"),
    "a byte of the signature": (lambda m: flip(next(m.glob("*/*/signed.sig")), 5), "no signature"),
    "no signature": (lambda m: next(m.glob("*/*/signed.sig")).unlink(), "not signed"),
    "no manifest": (lambda m: next(m.glob("*/*/manifest.json")).unlink(), "not signed"),
    "another signer": (sign_by_somebody_else, "no signature"),
    "a newer version": (add_a_version, r"\(added\).*"),
    "bytecode": (add_bytecode, r"pyc \(added\)"),
    "a link": (link, r"model\.onnx \(changed\)"),
    "a file less": (lambda m: next(m.glob("*_engine/*/known_answer.json")).unlink(), "missing"),
    "another model": (lambda m: shutil.copytree(m / f"{NAME}_engine", m / "evil"), "evil: not signed"),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_nothing_else_is(attack: str, models: Path, keys: dict[str, Path]) -> None:
    shutil.copy(keys["theirs"], models.parent)
    integrity.sign(models, NAME, keys["ours"])
    assert integrity.check(models, public_key=keys["ours.pub"]) == [NAME]
    change, message = ATTACKS[attack]
    change(models)
    with pytest.raises(IntegrityError, match=message):
        integrity.check(models, public_key=keys["ours.pub"])


def test_a_link_is_not_signed(models: Path, keys: dict[str, Path]) -> None:
    link(models)
    with pytest.raises(IntegrityError, match=r"model\.onnx: a link"):
        integrity.sign(models, NAME, keys["ours"])


def test_a_change_is_noticed_at_the_next_start_of_triton_too(models: Path, keys: dict[str, Path]) -> None:
    integrity.sign(models, NAME, keys["ours"])
    with Server(models, verify=keys["ours.pub"]) as server:
        flip(next(models.glob("*_postprocess/*/model.py")), 1)
        assert server._process is not None
        (triton,) = (p for p in psutil.Process(server._process.pid).children() if p.name() == "tritonserver")
        triton.kill()
        with pytest.raises(ServerError, match="not what was signed"):
            server.wait()


def test_nas_build_signs_and_nas_serve_verifies(models: Path, keys: dict[str, Path], tmp_path: Path) -> None:
    def run(*command: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300)

    build = [BIN / "nas-build", "--weights", "demo", "--variant", "s", "--precision", "int8", "--target", "openvino"]
    build += ["--model-repository", models]
    done = run(*build, "--sign", tmp_path / "none")
    assert done.returncode == 1 and "the key cannot be read" in done.stderr
    done = run(*build, "--sign", keys["ours"])  # it is there: nothing but the signature is new
    assert done.returncode == 0, done.stderr
    free = ("--http-port", 0, "--grpc-port", 0, "--metrics-port", 0)
    serve = [BIN / "nas-serve", "--model-repository", models, *free]
    assert run(*serve, "--verify", keys["ours.pub"], "--", "true").returncode == 0
    done = run(*serve, "--verify", keys["theirs.pub"], "--", "true")
    assert done.returncode == 1 and "no signature of" in done.stderr and "Traceback" not in done.stderr
    (tmp_path / "nonsense").write_text("no key")
    done = run(*serve, "--verify", tmp_path / "nonsense", "--", "true")
    assert done.returncode == 1 and "no signature of" in done.stderr
    done = run(*build, "--sign", tmp_path / "nonsense")
    assert done.returncode == 1 and "cannot be signed" in done.stderr and "Traceback" not in done.stderr
