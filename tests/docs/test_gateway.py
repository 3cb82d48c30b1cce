"""The gateway of docs/gateway.md, as it stands there: Envoy with tokens, before a real server."""

from __future__ import annotations

import os
import re
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from nas_client import AdminKeyMissing, Credentials, Detector, Unauthorized
from nas_serve import Server
from nas_serve.front import envoy

from support.certificates import certificates
from support.commands import CLIENT
from support.samples import ROOT, SAMPLES
from support.waiting import until

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificates")
MODEL = "yolo_nas_s_int8"
TOKEN = "token-of-alice"


@pytest.fixture(scope="module")
def gateway(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Path]]:
    """Its port, and the folder of certificates."""
    folder = tmp_path_factory.mktemp("gateway")
    certificates(folder)
    (config,) = re.findall(r"^```yaml\n(.*?)^```", (ROOT / "docs/gateway.md").read_text(), re.MULTILINE | re.DOTALL)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    grpc, http = (url.rpartition(":")[2] for url in (server.grpc_url, server.http_url))
    changes = {
        "0.0.0.0, port_value: 8443": f"127.0.0.1, port_value: {port}",
        "/etc/envoy": str(folder),
        "triton, port_value: 8001": f"127.0.0.1, port_value: {grpc}",
        "triton, port_value: 8000": f"127.0.0.1, port_value: {http}",
    }
    for old, new in changes.items():
        assert old in config
        config = config.replace(old, new)
    (folder / "gateway.yaml").write_text(config)
    command = [envoy.find(), "-c", folder / "gateway.yaml", "--use-dynamic-base-id", "--concurrency", "1"]
    with (folder / "log").open("w") as log, subprocess.Popen(list(map(str, command)), stderr=log) as process:
        try:
            assert until(lambda: _listens(port) or process.poll() is not None, 120)
            assert process.poll() is None, (folder / "log").read_text()
            yield port, folder
        finally:
            process.terminate()


def _listens(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.parametrize("scheme", ["grpcs", "https"])
def test_a_token_opens_it(scheme: str, gateway: tuple[int, Path]) -> None:
    port, folder = gateway
    command = [CLIENT, "detect", SAMPLES / "bus.jpg", "--model", MODEL]
    command += ["--url", f"{scheme}://localhost:{port}", "--timeout", "20"]
    environment = os.environ | {"NAS_TLS_CA": str(folder / "ca.pem")}

    def detect(**more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            list(map(str, command)), env=environment | more, capture_output=True, text=True, timeout=300, check=False
        )

    done = detect(NAS_TOKEN=TOKEN)
    assert done.returncode == 0 and "bus" in done.stdout, done.stderr
    for token in ("", "wrong"):
        done = detect(NAS_TOKEN=token)
        assert done.returncode == 1 and "does not know you" in done.stderr and "NAS_TOKEN" in done.stderr, done.stderr
    done = detect(NAS_TOKEN=TOKEN, NAS_TLS_CA=str(folder / "gone.pem"))
    assert done.returncode == 2 and "gone.pem: no such file" in done.stderr.replace("\n", ""), done.stderr


@pytest.mark.parametrize("scheme", ["grpcs", "https"])
def test_nobody_is_an_administrator_through_it(scheme: str, gateway: tuple[int, Path]) -> None:
    port, folder = gateway
    given = Credentials(token=TOKEN, authorities=str(folder / "ca.pem"))
    with Detector(f"{scheme}://localhost:{port}", MODEL, credentials=given, shared_memory=False) as detector:
        assert "bus" in detector.detect(SAMPLES / "bus.jpg").names
        with pytest.raises(AdminKeyMissing):
            detector.transport.registered()
    nobody = given._replace(token=None)
    with (
        Detector(f"{scheme}://localhost:{port}", MODEL, credentials=nobody) as detector,
        pytest.raises(Unauthorized, match="does not know you"),
    ):
        detector.detect(SAMPLES / "bus.jpg")


def test_there_is_no_way_without(gateway: tuple[int, Path]) -> None:
    port, folder = gateway
    for token, status in ((TOKEN, 200), ("wrong", 401)):
        answer = httpx.get(
            f"https://localhost:{port}/v2/health/ready",
            headers={"Authorization": f"Bearer {token}"},
            verify=ssl.create_default_context(cafile=str(folder / "ca.pem")),
        )
        assert answer.status_code == status
    with pytest.raises(httpx.TransportError):
        httpx.get(f"http://localhost:{port}/v2/health/ready")
