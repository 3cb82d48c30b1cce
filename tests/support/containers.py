"""Triton by the start script of the containers, and images of this machine's own programs."""

from __future__ import annotations

import io
import os
import signal
import ssl
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from nas_serve import supervision, wheel
from nas_serve.addresses import claim_ports

from .samples import ROOT


def wheels_triton(folder: Path) -> tuple[list[str], dict[str, str]]:
    """Arguments and environment with which docker/serve.sh starts the tritonserver of the wheel.

    Args:
        folder: for its backends.
    """
    triton = wheel.find()
    backends = wheel.assemble_backends(triton, folder / "backends")
    environment = {
        "PATH": f"{triton / 'tritonserver' / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "LD_LIBRARY_PATH": f"{triton.parent / 'nvidia_pytriton.libs'}:{wheel.libpython()}",
        "NAS_SUPERVISOR": str(Path(supervision.__file__).parent),
    }
    return [f"--backend-directory={backends}", "--allow-gpu-metrics=false"], environment


@contextmanager
def triton_by_script(
    arguments: Sequence[str],
    environment: dict[str, str],
    log: Path,
    timeout_s: float = 120,
    tls: ssl.SSLContext | None = None,
) -> Iterator[dict[str, int]]:
    """Ports of a Triton started by docker/serve.sh, with the tritonserver that is on the environment's PATH."""
    ports = claim_ports("127.0.0.1", {"http": 0, "grpc": 0, "metrics": 0})
    ready = f"{'https' if tls else 'http'}://localhost:{ports['http']}/v2/health/ready"
    command = [str(ROOT / "docker/serve.sh"), *arguments, *(f"--{name}-port={port}" for name, port in ports.items())]
    with (
        log.open("w") as out,
        subprocess.Popen(command, env=os.environ | environment, stdout=out, stderr=out) as process,
    ):
        try:
            deadline = time.monotonic() + timeout_s
            while True:
                try:
                    if httpx.get(ready, verify=tls or True).is_success:
                        break
                except httpx.TransportError:
                    pass
                assert process.poll() is None and time.monotonic() < deadline, log.read_text()[-3000:]
                time.sleep(0.2)
            yield ports
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(300)


@contextmanager
def machine_image(
    engine: Any, name: str, programs: Sequence[Path], scripts: Mapping[str, str] | None = None
) -> Iterator[None]:
    """An image of this machine's own programs and the libraries they need, so that nothing is pulled."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        needed = subprocess.run(["ldd", *map(str, programs)], capture_output=True, text=True, check=True).stdout
        paths = {f"bin/{path.name}": str(path) for path in programs}
        for word in needed.split():
            if word.startswith("/") and not word.endswith(":"):
                loader = Path(word).name.startswith("ld-")
                paths[word.lstrip("/") if loader else f"libraries/{Path(word).name}"] = word
        for target, path in paths.items():
            tar.add(os.path.realpath(path), target)
        for target, text in (scripts or {}).items():
            entry = tarfile.TarInfo(f"bin/{target}")
            entry.mode, entry.size = 0o755, len(text)
            tar.addfile(entry, io.BytesIO(text.encode()))
        for folder in ("tmp", "etc"):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o1777
            tar.addfile(entry)
    repository, _, tag = name.partition(":")
    changes = ["ENV PATH=/bin", "ENV LD_LIBRARY_PATH=/libraries"]
    engine.api.import_image_from_data(archive.getvalue(), repository=repository, tag=tag, changes=changes)
    try:
        yield
    finally:
        engine.images.remove(name, force=True)
