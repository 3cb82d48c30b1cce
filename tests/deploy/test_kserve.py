"""KServe's manifests: the server started with their paths, ports, environment and probes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.containers import wheels_triton
from support.samples import ROOT, SAMPLES

pytestmark = pytest.mark.slow
BIN = Path(sys.executable).parent
MODEL = "yolo_nas_s_int8"
RUNTIME, SERVICE = (
    yaml.safe_load((ROOT / "deploy/kserve" / name).read_text()) for name in ("runtime.yaml", "service.yaml")
)

# In namespaces of its own, so that ports and /mnt/models are its own: what the storage initializer and the kubelet do.
_POD = """
import fcntl, os, signal, socket, struct, subprocess, sys, time
repository, port, serve, client, picture, probe = sys.argv[1:7]
with socket.socket() as any_socket:  # the loopback interface is down in a new namespace
    fcntl.ioctl(any_socket, 0x8914, struct.pack("16sH14s", b"lo", 0x1 | 0x40, b""))
subprocess.run(["mount", "-t", "tmpfs", "none", "/mnt"], check=True)
os.makedirs("/mnt/models")
subprocess.run(["mount", "--bind", "--options", "ro", repository, "/mnt/models"], check=True)
server = subprocess.Popen([serve, *sys.argv[7:]])
try:
    deadline = time.monotonic() + 120
    while subprocess.run([serve, *probe.split()[1:]]).returncode:
        assert server.poll() is None and time.monotonic() < deadline
        time.sleep(0.5)
    url = f"http://127.0.0.1:{port}"
    code = subprocess.run([client, "detect", picture, "--url", url, "--format", "json"]).returncode
finally:
    server.send_signal(signal.SIGTERM)
    server.wait(300)
sys.exit(code)
"""


def container() -> dict[str, Any]:
    (found,) = RUNTIME["spec"]["containers"]
    assert isinstance(found, dict)
    return found


def test_service_and_runtime_fit() -> None:
    model = SERVICE["spec"]["predictor"]["model"]
    assert model["runtime"] == RUNTIME["metadata"]["name"]
    assert model["modelFormat"]["name"] in [one["name"] for one in RUNTIME["spec"]["supportedModelFormats"]]
    assert model["protocolVersion"] in RUNTIME["spec"]["protocolVersions"]
    mounts = {mount["name"] for mount in container()["volumeMounts"]}
    assert (
        mounts == {volume["name"] for volume in RUNTIME["spec"]["volumes"]}
        and container()["name"] == "kserve-container"
    )


def test_it_serves_what_the_storage_initializer_brought(repository: Path, tmp_path: Path) -> None:
    unshare = ["unshare", "--net", "--mount"]
    if subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode:
        pytest.skip("namespaces cannot be made here")
    for path in repository.glob(f"{MODEL}*"):
        shutil.copytree(path, tmp_path / "brought" / path.name)
    arguments, environment = wheels_triton(tmp_path)
    environment |= {one["name"]: one["value"] for one in container()["env"]} | {"NAS_STATE": str(tmp_path / "state")}
    (port,) = (one["containerPort"] for one in container()["ports"])
    probe = " ".join(container()["readinessProbe"]["exec"]["command"])
    pod = [tmp_path / "brought", port, ROOT / "docker/serve.sh", BIN / "nas-client", SAMPLES / "bus.jpg", probe]
    command = [*unshare, sys.executable, "-c", _POD, *map(str, pod), *arguments]
    with (tmp_path / "log").open("w") as log:
        done = subprocess.run(
            command,
            env=os.environ | environment,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            timeout=300,
            check=False,
        )
    assert done.returncode == 0, (tmp_path / "log").read_text()[-3000:]
    (found,) = json.loads(done.stdout[done.stdout.index("[") :])
    assert "bus" in [one["name"] for one in found["detections"]]
