"""Built wheels in fresh environments, as users install them. Wants a package index."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from docker.utils.build import exclude_paths
from nas_client import Detector
from nas_serve import Server

from support.samples import ROOT, SAMPLES

pytestmark = pytest.mark.slow
MODEL = "yolo_nas_s_int8"
_PIP = ("-m", "pip", "--disable-pip-version-check")


def run(*command: object, code: int | None = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=500, check=False)
    assert code is None or done.returncode == code, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of both."""
    if run(sys.executable, *_PIP, "index", "versions", "hatchling", code=None).returncode:
        pytest.skip("no package index can be reached")
    folder = tmp_path_factory.mktemp("wheels")
    run(sys.executable, *_PIP, "wheel", "--no-deps", "--wheel-dir", folder, ROOT, SAMPLES)
    return folder


@pytest.fixture(scope="module")
def wheel(wheels: Path) -> Path:
    (found,) = wheels.glob("nas_triton-*.whl")
    return found


def test_the_client_is_small_and_the_samples_are_apart(wheel: Path, wheels: Path) -> None:
    assert wheel.stat().st_size < 1_000_000
    (samples,) = wheels.glob("nas_triton_samples-*.whl")
    inside = {Path(name).name for name in zipfile.ZipFile(samples).namelist()}
    assert inside >= {"bus.jpg", "coffee.png", "chelsea.png", "astronaut.png", "yolo_nas_s_demo.safetensors"}
    run(sys.executable, "-m", "twine", "check", "--strict", wheel, samples)


def test_an_image_is_built_of_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    """From the context that Docker gets, which has no .env, and so no keys: the Dockerfiles make an empty one."""
    for name in exclude_paths(str(ROOT), (ROOT / ".dockerignore").read_text().split()):
        if (ROOT / name).is_file():
            (tmp_path / "src" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, tmp_path / "src" / name)
    assert not (tmp_path / "src" / ".env").exists()
    for dockerfile in ("Dockerfile", "Dockerfile.slim"):
        assert "RUN touch /src/.env" in (ROOT / "docker" / dockerfile).read_text()
    (tmp_path / "src" / ".env").touch()
    run(sys.executable, *_PIP, "wheel", "--no-deps", "--wheel-dir", tmp_path, tmp_path / "src")
    (found,) = tmp_path.glob("*.whl")
    assert sorted(zipfile.ZipFile(found).namelist()) == sorted(zipfile.ZipFile(wheel).namelist())


def test_a_wheel_writes_the_compose_file_and_what_it_builds_from(wheel: Path, tmp_path: Path) -> None:
    """The package in the folder that it writes gives the same wheel again."""
    unpacked = tmp_path / "unpacked"
    zipfile.ZipFile(wheel).extractall(unpacked)
    script = f"import sys; sys.path.insert(0, {str(unpacked)!r}); from nas_serve.cli import main; main()"
    run(sys.executable, "-c", script, "--write-compose", tmp_path / "compose")
    run(sys.executable, *_PIP, "wheel", "--no-deps", "--wheel-dir", tmp_path, tmp_path / "compose")
    again = zipfile.ZipFile(tmp_path / wheel.name)
    assert {one.filename: one.CRC for one in again.infolist()} == {
        one.filename: one.CRC for one in zipfile.ZipFile(wheel).infolist()
    }


@pytest.fixture
def environment(tmp_path: Path, wheel: Path) -> Callable[..., Path]:
    """Makes an environment with the client and what else is named; its folder of programs."""

    def make(*packages: str, python: str | None = None) -> Path:
        if python:
            run(python, "-m", "venv", tmp_path / "venv")
        else:
            venv.create(tmp_path / "venv", with_pip=True)
        programs = tmp_path / "venv" / "bin"
        run(programs / "python", *_PIP, "install", wheel, *packages)
        return programs

    return make


@pytest.mark.parametrize(
    "packages",
    [
        pytest.param(
            ("numpy<2", "opencv-python-headless==4.8.0.76", "tritonclient==2.51.0"), marks=pytest.mark.nightly
        ),
        ("numpy>=2", "opencv-python"),  # as beside ultralytics, all others as new as there are
    ],
    ids=["old", "new"],
)
def test_the_client_detects_and_draws(
    packages: tuple[str, ...], environment: Callable[..., Path], server: Server, tmp_path: Path
) -> None:
    programs = environment(*packages)
    arguments = ("detect", SAMPLES / "bus.jpg", "--url", server.grpc_url, "--model", MODEL, "--format", "json")
    found = json.loads(run(programs / "nas-client", *arguments, "--save", tmp_path / "out").stdout)
    with Detector(server.grpc_url, MODEL) as detector:
        expected = detector.detect(SAMPLES / "bus.jpg")
    assert [one["name"] for one in found[0]["detections"]] == list(expected.names)
    assert (tmp_path / "out/bus.jpg").stat().st_size > 10_000
    listed = json.loads(run(programs / "python", *_PIP, "list", "--format", "json").stdout)
    assert len([one for one in listed if one["name"].startswith("opencv")]) == 1
    assert not {"torch", "openvino", "cuda-python", "nas-triton-samples"} & {one["name"] for one in listed}


@pytest.mark.nightly
@pytest.mark.parametrize("version", ["3.10", "3.11", "3.12", "3.13", "3.14"])
def test_the_client_detects_on_every_python(version: str, environment: Callable[..., Path], server: Server) -> None:
    python = shutil.which(f"python{version}")
    if python is None or run(python, "-c", "import ensurepip, venv", code=None).returncode:
        pytest.skip(f"Python {version} is not here")
    programs = environment("--only-binary", ":all:", python=python)
    assert run(programs / "python", "--version").stdout.startswith(f"Python {version}.")
    for url in (server.grpc_url, f"http://{server.http_url}"):
        assert (
            "bus" in run(programs / "nas-client", "detect", SAMPLES / "bus.jpg", "--url", url, "--model", MODEL).stdout
        )


def test_without_opencv_all_but_drawing_works(environment: Callable[..., Path], server: Server, tmp_path: Path) -> None:
    programs = environment()
    assert "0." in run(programs / "nas-client", "--version").stdout
    arguments = ("detect", SAMPLES / "bus.jpg", "--url", f"http://{server.http_url}", "--model", MODEL)
    assert "bus" in run(programs / "nas-client", *arguments).stdout
    refused = run(programs / "nas-client", *arguments, "--save", tmp_path / "out", code=1)
    assert "OpenCV is needed for this" in refused.stderr and "pip install opencv-python-headless" in refused.stderr
    tools = {"pip", "setuptools", "pkg_resources", "__pycache__"}  # not of the client
    files = [path for path in programs.parent.rglob("site-packages/**/*") if not tools.intersection(path.parts)]
    assert sum(path.stat().st_size for path in files if path.is_file()) < 180e6


@pytest.mark.nightly
def test_the_page_is_in_the_wheel(wheel: Path, environment: Callable[..., Path], server: Server) -> None:
    programs = environment(f"{wheel}[page]")
    command = [str(programs / "nas-client"), "page", "--port", "0", "--url", server.grpc_url]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=dict(os.environ)) as process:
        assert process.stderr is not None
        url, _, _ = process.stderr.readline().partition(" ")
        for path in ("/", "/static/page.js", "/static/draw.js", "/static/server.js", "/static/page.css"):
            assert httpx.get(f"{url}{path}", timeout=300).status_code == 200, path
        content = (SAMPLES / "bus.jpg").read_bytes()
        answer = httpx.post(f"{url}/api/detect", params={"model": MODEL}, content=content, timeout=300)
        process.terminate()
    assert "bus" in [one["name"] for one in answer.json()["detections"]]


@pytest.mark.parametrize(
    "extras",
    [
        "serve",
        "build",
        *(
            pytest.param(extras, marks=pytest.mark.nightly)
            for extras in ("bench,val", "bench,build,serve,val", "page,ray,serve,video", "sign,supervision,docker")
        ),
    ],
)
def test_the_extras_go_together(extras: str, wheel: Path, wheels: Path, tmp_path: Path) -> None:
    if sys.version_info >= (3, 13) and "serve" in extras:
        pytest.skip("Python 3.13 wants requirements-py313.txt")
    report = tmp_path / "report.json"
    asked = ("install", "--dry-run", "--ignore-installed", "--quiet", "--report", report, "--find-links", wheels)
    torch = ("torch==2.13.0",) if "build" in extras else ()  # the one that is tested
    run(sys.executable, *_PIP, *asked, f"nas-triton[{extras}] @ {wheel.as_uri()}", *torch)
    installed = [one["metadata"] for one in json.loads(report.read_text())["install"]]
    versions = {one["name"]: one["version"] for one in installed}
    assert ("nas-triton-samples" in versions) == ("build" in extras)
    if "serve" in extras:
        assert versions["nvidia-pytriton"] == "0.7.0" and versions["numpy"].startswith("1.")
