"""Where the embedded server listens: an address of this machine, and ports that are free."""

from __future__ import annotations

import contextlib
import errno
import socket

from .errors import ServerError


def resolved(host: str) -> str:
    """Its address, IPv4 where it has one.

    Raises:
        ServerError: if it has none.
    """
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise ServerError(f"{host}: no address to listen on ({error}); expected one of this machine.") from None
    return str(min(found, key=lambda one: one[0] != socket.AF_INET)[4][0])


def claim_ports(host: str, requested: dict[str, int]) -> dict[str, int]:
    """The requested ports, free ones for 0; all are bound at once so that they differ, then let go."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with contextlib.ExitStack() as sockets:
        ports = {}
        for service, port in requested.items():
            claim = sockets.enter_context(socket.socket(family, socket.SOCK_STREAM))
            claim.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                claim.bind((host, port))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise ServerError(f"{service} port {port} on {host} cannot be had: {error.strerror}.") from None
                raise ServerError(
                    f"{service} port {port} on {host} is taken. "
                    f"Stop what uses it, or choose another with --{service}-port (0 takes a free one)."
                ) from None
            ports[service] = claim.getsockname()[1]
        return ports
