"""Ports for clients, and for a Triton that only this machine's Envoy asks."""

from __future__ import annotations

import random
import socket
from pathlib import Path

from ..front.front import LOOPBACK

DEFAULT_PORTS = {"http": 8000, "grpc": 8001, "metrics": 8002}  # for clients
_LOWEST = 10_000
_ENOUGH = 1000  # ports to choose from
_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")  # what outgoing connections take


def free_ports() -> dict[str, int]:
    """A free port of loopback for each service, by chance, and none that an outgoing connection may take.

    Triton opens its ports when its models are loaded, which takes a while.
    """
    above = int(_RANGE.read_text().split()[0])
    choice = range(_LOWEST, above if above - _LOWEST > _ENOUGH else 2**16)
    ports: list[int] = []
    while len(ports) < len(DEFAULT_PORTS):
        port = random.choice(choice)
        with socket.socket() as claim:
            claim.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                claim.bind((LOOPBACK, port))
            except OSError:
                continue
        if port not in ports:
            ports.append(port)
    return dict(zip(DEFAULT_PORTS, ports, strict=True))
