"""What stands in front of Triton is told: where clients come in, where Triton is, and which keys open what."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

TRITON_HEADER = "front-key"  # of Triton itself
LOOPBACK = "127.0.0.1"
_TRITON_APIS = (
    *("health", "metadata", "inference", "shared-memory", "model-config"),
    *("model-repository", "statistics", "trace", "logging"),
)


@dataclass(frozen=True)
class Tls:
    """PEM files. With an authority clients must show a certificate of it."""

    certificate: str
    key: str
    client_authority: str | None = None


@dataclass(frozen=True)
class Front:
    """Where clients come in, and where Triton is.

    Attributes:
        host: address to listen on.
        ports: public port of each of http, grpc and metrics.
        triton_ports: those of Triton, on loopback.
        triton_key: opens them.
        admin_key: opens shared memory, trace and log settings.
        folder: for the socket that commands Envoy, and for what Lua reads; closed to others.
        open_shared_memory: to clients without the admin key too.
        tls: for all three ports.
        threads: of Envoy.
        cors_origins: whose pages may call the HTTP API from a browser, such as https://shop.example.com; * for all.
    """

    host: str
    ports: dict[str, int]
    triton_ports: dict[str, int]
    triton_key: str
    admin_key: str
    folder: str
    open_shared_memory: bool = False
    tls: Tls | None = None
    threads: int = 1
    cors_origins: Sequence[str] = ()

    def __post_init__(self) -> None:
        for origin in self.cors_origins:
            if origin != "*" and not re.fullmatch(r"https?://[^/\s]+", origin):
                raise ValueError(
                    f"{origin!r} is no origin; expected a scheme and a host, as in https://example.com, or *"
                )

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Front:
        """Undo `dataclasses.asdict`."""
        return cls(**{**values, "tls": Tls(**values["tls"]) if values.get("tls") else None})

    @property
    def socket(self) -> str:
        """Unix socket of Envoy's administration."""
        return f"{self.folder}/envoy.sock"

    @property
    def capacity_file(self) -> str:
        """One line: requests a second, requests under way, and when that was."""
        return f"{self.folder}/capacity"

    def triton_arguments(self, key: str) -> list[str]:
        """Of a Triton that is reached through this alone: loopback, and no API without the key, in either protocol."""
        apis = f"{','.join(_TRITON_APIS)}:{TRITON_HEADER}={key}"
        addresses = (f"--{service}-address={LOOPBACK}" for service in self.triton_ports)
        ports = (f"--{service}-port={port}" for service, port in self.triton_ports.items())
        clouds = ("--allow-sagemaker=false", "--allow-vertex-ai=false")
        return [f"--http-restricted-api={apis}", f"--grpc-restricted-protocol={apis}", *clouds, *addresses, *ports]
