"""Settings of a container, where docker/serve.sh starts the supervisor with Triton's command line."""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from ..front.front import Front, Tls
from .ports import DEFAULT_PORTS, free_ports
from .settings import KEY, Settings
from .triton import remove_shared_memory

_SHM_PREFIX = "nas_triton_"


def settings(command: Sequence[str]) -> Settings:
    """Of Triton's command with public addresses; keys and certificates are taken out of the environment.

    Raises:
        ValueError: if a variable's value cannot be, or lacks another.
    """
    options = argparse.ArgumentParser(allow_abbrev=False)
    options.add_argument("--model-repository", default="/models")
    options.add_argument("--http-address", default="0.0.0.0")  # of all three
    for service, port in DEFAULT_PORTS.items():
        options.add_argument(f"--{service}-port", type=int, default=port)
    given, rest = options.parse_known_args(command)
    start_s = _start_s()
    front = Front(
        host=given.http_address,
        ports={service: getattr(given, f"{service}_port") for service in DEFAULT_PORTS},
        triton_ports=free_ports(),
        triton_key=os.urandom(32).hex(),
        admin_key=_taken("NAS_ADMIN_KEY") or os.urandom(32).hex(),
        folder=tempfile.mkdtemp(prefix="nas-triton-"),
        tls=_tls(),
        cors_origins=os.environ.get("NAS_CORS_ORIGINS", "").split(),
        threads=max(1, min(4, len(os.sched_getaffinity(0)) // 8)),
    )
    prefix = f"{_SHM_PREFIX}{os.urandom(4).hex()}_"
    state = os.environ.get("NAS_STATE")
    if state:
        _take_over(Path(state), prefix)
    arguments = [f"--model-repository={given.model_repository}", *front.triton_arguments(KEY)]
    return Settings(
        command=[*rest, *arguments, f"--backend-config=python,shm-region-prefix-name={prefix}"],
        front=front,
        model_repository=given.model_repository,
        remove=[front.folder],
        shm_prefix=prefix,
        state=state,
        public_key=_taken("NAS_VERIFY_KEY"),
        watch=os.environ.get("NAS_WATCH", "0") not in ("", "0"),
        start_s=start_s,
    )


def _start_s() -> float:
    text = os.environ.get("NAS_START_S")
    if not text:
        return Settings.start_s
    with contextlib.suppress(ValueError):
        if 0 < (seconds := float(text)) < math.inf:
            return seconds
    raise ValueError(f"NAS_START_S={text}: expected seconds")


def _take_over(state: Path, prefix: str) -> None:
    """Clear away what a run left that was killed with its container, if its files are still here; leave our own."""
    state.mkdir(mode=0o755, parents=True, exist_ok=True)
    (state / "ready").unlink(missing_ok=True)
    file = state / "shared-memory"
    with contextlib.suppress(OSError):
        if (before := file.read_text(encoding="ascii")).startswith(_SHM_PREFIX):
            remove_shared_memory(before)
    file.write_text(prefix, encoding="ascii")


def _tls() -> Tls | None:
    certificate, key, authority = (_taken(f"NAS_TLS_{name}") for name in ("CERT", "KEY", "CLIENT_CA"))
    if bool(certificate) != bool(key) or (authority and not certificate):
        raise ValueError("NAS_TLS_CERT and NAS_TLS_KEY belong together, and NAS_TLS_CLIENT_CA needs both")
    return Tls(certificate, key or "", authority) if certificate else None


def _taken(name: str) -> str | None:
    """A variable, which Triton then does not see; None if it is empty."""
    return os.environ.pop(name, None) or None
