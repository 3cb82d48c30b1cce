"""Shared fixtures: the samples, networks, one model repository of all six models, and one real Triton on it."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from nas_build import Int8Options, pipeline
from nas_build.errors import BuildError, PlanError
from nas_build.targets.tensorrt.container import docker_engine
from nas_build.yolo_nas import checkpoint
from nas_build.yolo_nas.network import YoloNAS
from nas_ensembles import contract
from nas_serve import Server

from support.networks import lively
from support.samples import CUSTOM_NAMES, CUSTOM_PROCESSING, DEMO, QUARTER_PROCESSING, ROOT

# Readline, which pytest loads, tells every process that it starts that terminals have 80 columns.
os.environ.pop("COLUMNS", None)
os.unsetenv("COLUMNS")

_SERVERS = {
    "server",
    "docker",
    "chaos",
    "gpu",
    "fuzz",
    "packaging",
    "deploy",
}  # folders whose tests start programs that take their time
# The large networks have random weights: their builds take minutes enough without trying all methods.
QUICKLY = Int8Options(calibration_pictures=2, calibration_method="percentile-99.999")
# Fixtures that take longer than `make quick` should.
_HEAVY = {"six_builds", "repository", "server", "engine", "networks", "checkpoints", "exported", "graph", "built"}
_HEAVY |= {"quarter_checkpoint", "small_checkpoint"}
_LONGEST = ["client", "builder"]  # folders


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks what `make quick` runs, and puts what takes longest first."""
    for item in items:
        heavy = not _HEAVY.isdisjoint(getattr(item, "fixturenames", ()))
        slow = item.get_closest_marker("slow") or item.get_closest_marker("nightly")
        if not (heavy or slow or _folder(item.nodeid) in _SERVERS):
            item.add_marker(pytest.mark.quick)
    items.sort(key=lambda item: _LONGEST.index(folder) if (folder := _folder(item.nodeid)) in _LONGEST else 9)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """One process has all tests of the client, for they share a server, another the builder's; the rest by file."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFixtures(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            return folder if (folder := _folder(nodeid)) in _LONGEST else nodeid.partition("::")[0]

    config.option.loadscopereorder = False
    return ByFixtures(config, log)


def _folder(nodeid: str) -> str:
    """Below tests; the client's jobs, which start servers of their own, are apart."""
    folders = Path(nodeid.partition("::")[0]).parts[1:3]
    return "job" if folders == ("client", "job") else folders[0]


@pytest.fixture(scope="session", autouse=True)
def interruptible() -> None:
    """Shells start background jobs with SIGINT ignored, and that is inherited: some tests send it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of this run, for all its processes."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture(scope="session")
def demo() -> checkpoint.Checkpoint:
    return checkpoint.load(DEMO)


@pytest.fixture(scope="session")
def demo_network(demo: checkpoint.Checkpoint) -> YoloNAS:
    return demo.network()


@pytest.fixture(scope="session")
def networks(demo_network: YoloNAS) -> dict[str, YoloNAS]:
    """S is the demo; M has 80 classes; L has three, wants BGR, bottom-right padding and undivided pixels.

    M and L were trained on a smaller canvas.
    """
    return {"s": demo_network, "m": lively("m", 80), "l": lively("l", len(CUSTOM_NAMES), pixel_scale=1.0)}


@pytest.fixture(scope="session")
def checkpoints(networks: dict[str, YoloNAS], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A file per variant, each of another kind."""
    folder = tmp_path_factory.mktemp("checkpoints")
    files = {"s": DEMO, "m": folder / "medium.pt", "l": folder / "large.pth"}
    torch.save({"net": networks["m"].state_dict(), "processing_params": QUARTER_PROCESSING}, files["m"])
    ema = {f"module.{key}": value for key, value in networks["l"].state_dict().items()}
    net = {key: torch.zeros_like(value) for key, value in ema.items()}
    torch.save({"net": net, "ema_net": ema, "epoch": 3, "processing_params": CUSTOM_PROCESSING}, files["l"])
    return files


@pytest.fixture(scope="session")
def six_builds(request: pytest.FixtureRequest, run_folder: Path) -> tuple[Path, dict[str, str]]:
    """All six variant x precision combinations, built by the builder once for all processes; why some could not be."""
    folder, failed = run_folder / "repository", run_folder / "failed.json"
    with FileLock(run_folder / "six_builds.lock"):
        if not failed.exists():
            failed.write_text(json.dumps(_build_six(request.getfixturevalue("checkpoints"), folder)))
    return folder, json.loads(failed.read_text())


def _build_six(checkpoints: dict[str, Path], folder: Path) -> dict[str, str]:
    failed = {}
    for variant, path in checkpoints.items():
        for precision in ("fp16", "int8"):
            options = pipeline.Options(
                weights="demo" if variant == "s" else str(path),
                variant=variant,  # type: ignore[arg-type]
                precision=precision,  # type: ignore[arg-type]
                model_repository=folder,
                int8=Int8Options() if variant == "s" else QUICKLY,
            )
            try:
                pipeline.build(options)
            except BuildError as error:
                failed[contract.model_name(variant, precision)] = str(error)
    return failed


@pytest.fixture(scope="session")
def repository(six_builds: tuple[Path, dict[str, str]]) -> Path:
    """All six models. `test_all_six_are_built` says what is wrong if one is missing, once for all."""
    folder, failed = six_builds
    if failed:
        pytest.skip(f"not built: {', '.join(failed)}")
    return folder


@pytest.fixture(scope="session")
def server(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One Triton for the whole run, on free ports."""
    log = tmp_path_factory.mktemp("server") / "tritonserver.log"
    with Server(repository, log=log) as running:
        yield running


@pytest.fixture(scope="session")
def engine() -> Iterator[Any]:
    """A real Docker engine."""
    try:
        with docker_engine() as connected:
            yield connected
    except PlanError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def coco_data() -> Path:
    """Folder of test data that does not ship: coco8, tiny_coco, pictures."""
    folder = Path(os.environ.get("NAS_TEST_DATA") or ROOT.parent / "shared" / "data")
    if not (folder / "coco8").is_dir():
        pytest.skip("no test data beside the checkout; NAS_TEST_DATA names its folder")
    return folder
