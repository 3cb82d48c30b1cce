"""The ways to a server: one class per wire, and one place that turns their errors into ours."""

from __future__ import annotations

from .address import Address, Protocol
from .base import SharedTensor, Transport
from .credentials import Credentials
from .grpc import GrpcTransport
from .http import HttpTransport

__all__ = ["Address", "Credentials", "Protocol", "SharedTensor", "Transport", "connect"]

_WIRES: dict[Protocol, type[Transport]] = {"grpc": GrpcTransport, "http": HttpTransport}


def connect(address: Address, timeout_s: float, retries: int = 0, credentials: Credentials | None = None) -> Transport:
    """Calls to the server at an address, over its protocol; nothing is sent before the first call."""
    return _WIRES[address.protocol](address, timeout_s, retries, credentials)
