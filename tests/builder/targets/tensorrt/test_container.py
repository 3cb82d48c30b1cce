"""Plans from a container, with a real Docker engine; skipped without one.

The container's image is made of this machine's own shell, so that nothing is pulled. Its trtexec is a script: what is
tested is the container's life, and what goes in and out.
"""

from __future__ import annotations

import _thread
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from nas_build.errors import PlanError
from nas_build.progress import BuildProgress
from nas_build.targets.tensorrt.container import container
from nas_build.targets.tensorrt.executors import CommandError
from nas_build.targets.tensorrt.gpus import Gpu
from nas_build.targets.tensorrt.plan import Plan, PlanRequest
from nas_build.targets.tensorrt.trtexec import Trtexec

from support.containers import machine_image
from support.plans import PROFILE, Heard

IMAGE = "nas-triton-test/trtexec:26.08-py3"
TRTEXEC = """#!/bin/sh
echo "&&&& RUNNING TensorRT.trtexec [TensorRT v110201] [b3] # trtexec $*"
case "$*" in --help) exit 0;; esac
echo "[11/22/2026-10:00:01] [I] Parsing"
if [ "$(cat model.onnx)" = refused ]; then
  echo "[11/22/2026-10:00:01] [E] [TRT] node conv1: types Half and Float" >&2
  exit 1
fi
echo "[11/22/2026-10:00:02] [I] Building"
if [ "$(cat model.onnx)" = slow ]; then sleep 600; fi
{ echo "$*"; cat model.onnx; } > model.plan
{ cat timing.cache 2>/dev/null; echo timings; } > new.cache
mv new.cache timing.cache
"""


@pytest.fixture(scope="module")
def image(engine: Any) -> Iterator[str]:
    """A shell, a few commands, and the libraries they need."""
    programs = [Path(str(shutil.which(name))) for name in ("sh", "sleep", "mkdir", "cat", "mv")]
    scripts = {"trtexec": TRTEXEC, "nvidia-smi": "#!/bin/sh\necho 'NVIDIA L4, 8.9'\n"}
    with machine_image(engine, IMAGE, programs, scripts):
        yield IMAGE


def ours(engine: Any) -> list[Any]:
    return list(engine.containers.list(all=True, filters={"label": "nas-build"}))


def built(image: str, graph: bytes, progress: BuildProgress | None = None) -> Plan:
    request = PlanRequest("engine", graph, PROFILE)
    return Trtexec.docker(image, gpu=False).build(request, progress or BuildProgress())


def test_a_plan_from_a_container(engine: Any, image: str, cache: Path) -> None:
    progress = Heard()
    for _ in range(2):
        plan = built(image, b"graph", progress)
    assert plan.data.endswith(b"graph") and b"--stronglyTyped" in plan.data
    assert plan.tensorrt_version == "11.2.1" and plan.gpu == Gpu("NVIDIA L4", "8.9") and plan.built_with == "docker"
    assert progress.lines[:3][1:] == [("info", "Parsing"), ("info", "Building")]
    assert (cache / "timing" / "nvidia-l4-sm89-tensorrt11.2.1.cache").read_bytes() == b"timings\ntimings\n"
    assert not ours(engine)


def test_a_graph_that_is_refused(engine: Any, image: str) -> None:
    with pytest.raises(PlanError, match=r"^engine: TensorRT 11.2.1 cannot build a plan: node conv1: types Half and Fl"):
        built(image, b"refused")
    assert not ours(engine)


def test_ctrl_c_removes_the_container(engine: Any, image: str) -> None:
    def interrupt(line: str) -> None:
        if line == "Building":
            assert len(ours(engine)) == 1
            _thread.interrupt_main()

    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        built(image, b"slow", Heard(on_log=interrupt))
    assert time.monotonic() - started < 60
    assert not ours(engine)


def test_a_container_that_is_removed_meanwhile(engine: Any, image: str) -> None:
    def remove(line: str) -> None:
        if line == "Building":
            ours(engine)[0].remove(force=True)

    with pytest.raises(PlanError, match=r"26.08-py3: the container or its Docker engine failed: |exit code 137"):
        built(image, b"slow", Heard(on_log=remove))
    assert not ours(engine)


def test_an_engine_without_a_gpu_says_what_to_install(engine: Any, image: str) -> None:
    if "nvidia" in engine.info().get("Runtimes", {}):
        pytest.skip("this engine has NVIDIA's runtime")
    with pytest.raises(PlanError, match="gives containers no NVIDIA GPU; install the NVIDIA Container Toolkit"):
        Trtexec.docker(image)
    with pytest.raises(PlanError, match="gives containers no NVIDIA GPU; install the NVIDIA Container Toolkit"):
        with container(image, "0", 60, lambda *_: None):
            pass
    assert not ours(engine)


def test_an_image_that_cannot_be_had(engine: Any) -> None:
    with pytest.raises(PlanError, match=r"^localhost:9/none:1: cannot be pulled: "):
        built("localhost:9/none:1", b"graph")


def test_no_engine_says_how_to_name_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    with pytest.raises(PlanError, match="no Docker engine answers: .*DOCKER_HOST=ssh://user@host"):
        Trtexec.docker(IMAGE)


def test_a_container_without_trtexec(engine: Any, image: str) -> None:
    with container(image, None, 60, lambda *_: None) as executor:
        list(executor.run(["mv", "/bin/trtexec", "/bin/other"]))
        with pytest.raises(CommandError, match="trtexec ended with exit code 12[67]"):
            list(executor.run(["trtexec", "--help"]))
        assert executor.get("nothing") == b""
        executor.put("data", b"\0\n\xff" * 100_000)
        assert executor.get("data") == b"\0\n\xff" * 100_000
