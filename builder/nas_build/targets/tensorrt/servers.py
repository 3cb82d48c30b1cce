"""Triton's releases: which TensorRT each has, and so which plans it loads."""

from __future__ import annotations

import os
import re

IMAGE = "nvcr.io/nvidia/tritonserver"
# The server that compose.yaml starts; inside a server's image, that server.
DEFAULT_SERVER = os.environ.get("NVIDIA_TRITON_SERVER_VERSION") or "26.08"
SECURITY_FLOOR = "26.05"  # earlier servers have known remote code execution
# Triton's release notes: container -> TensorRT.
_TENSORRT = {
    "24.10": "10.5",
    "25.12": "10.14",
    "26.03": "10.16",
    "26.05": "10.16.1",
    "26.06": "11.0",
    "26.08": "11.2.1",
}


def server_image(server: str) -> str:
    """`26.08` and `26.08-py3` are NVIDIA's image of that release; anything with a name in it stands for itself."""
    if re.fullmatch(r"\d\d\.\d\d", server):
        return f"{IMAGE}:{server}-py3"
    return server if ":" in server or "/" in server else f"{IMAGE}:{server}"


def server_tensorrt(server: str) -> str | None:
    """TensorRT release of a server, as far as it is known."""
    release = _release(server)
    return _TENSORRT.get(release) if release else None


def below_security_floor(server: str) -> bool:
    """Whether NVIDIA's image of that release has known remote code execution."""
    release = _release(server)
    return release is not None and release < SECURITY_FLOOR


def misfit(tensorrt_version: str, server: str, *, version_compatible: bool) -> str | None:
    """Why a plan of this TensorRT cannot be loaded by the server, or None if it can or nobody knows."""
    expected = server_tensorrt(server)
    if expected is None:
        return None
    wanted = [int(part) for part in expected.split(".")]
    got = [int(part) for part in re.findall(r"\d+", tensorrt_version)]
    if got[: len(wanted)] == wanted:
        return None
    if version_compatible and got[0] == wanted[0] and got[: len(wanted)] < wanted:
        return None
    return f"TensorRT {tensorrt_version} here, but {server_image(server)} has {expected} and would refuse the plan"


def _release(server: str) -> str | None:
    match = re.search(r":(\d\d\.\d\d)\b", server_image(server))
    return match[1] if match else None
