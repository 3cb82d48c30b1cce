"""Where a server is: a protocol, a host and a port, written as a URL or without a scheme."""

from __future__ import annotations

import ipaddress
import re
from typing import Literal, NamedTuple

Protocol = Literal["grpc", "http"]
PROTOCOL_NAMES: dict[Protocol, str] = {"grpc": "gRPC", "http": "HTTP"}
DEFAULT_HOST_PORTS: dict[Protocol, str] = {"grpc": "localhost:8001", "http": "localhost:8000"}
_SCHEMES: dict[str, tuple[Protocol, bool]] = {
    "grpc": ("grpc", False),
    "grpcs": ("grpc", True),
    "http": ("http", False),
    "https": ("http", True),
}
# A name, an IPv4 address or an IPv6 address in brackets; a port; for HTTP the path before Triton's own.
_HOST_PORT = re.compile(
    r"(?P<host>[\w.-]+|\[(?P<ipv6>[^\[\]/]+)\])(:(?P<port>[0-9]{1,5}))?(?P<path>/[A-Za-z0-9._~%/-]*)?"
)
_LAST_PORT = 65535
_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")


class Address(NamedTuple):
    """Where the server is. `tls` for https:// and grpcs://."""

    protocol: Protocol
    host_port: str
    tls: bool = False

    @classmethod
    def parse(cls, url: str | None, protocol: Protocol | None) -> Address:
        """`localhost:8001`, `grpc://...`, `grpcs://...`, `http://...` or `https://...`; gRPC without a scheme.

        Raises:
            ValueError: if the scheme is another or not the protocol's, or what follows is no host and port.
        """
        if url is None:
            return cls(protocol or "grpc", DEFAULT_HOST_PORTS[protocol or "grpc"])
        scheme, separator, rest = url.partition("://")
        if not separator:
            return cls(protocol or "grpc", _host_port(url, url, protocol or "grpc"))
        if scheme not in _SCHEMES:
            raise ValueError(f"{url}: unknown scheme {scheme!r}; expected {', '.join(_SCHEMES)}")
        meant, tls = _SCHEMES[scheme]
        if protocol not in (None, meant):
            raise ValueError(f"{url}: the scheme means {PROTOCOL_NAMES[meant]}, but the protocol given is {protocol}")
        return cls(meant, _host_port(url, rest, meant), tls)

    @property
    def is_this_machine(self) -> bool:
        """Whether it is a loopback address, written with its port."""
        return self.host_port.rpartition(":")[0] in _LOOPBACK

    @property
    def local_port(self) -> int | None:
        """Its port, if it is on this machine."""
        port = self.host_port.rpartition(":")[2]
        return int(port) if self.is_this_machine and port.isdigit() else None

    def __str__(self) -> str:
        return f"{self.host_port} ({PROTOCOL_NAMES[self.protocol]})"


def _host_port(url: str, text: str, protocol: Protocol) -> str:
    """The text without a last slash; checked, as not every client library says what it cannot read."""
    text = text.rstrip("/")
    match = _HOST_PORT.fullmatch(text)
    problem = ""
    if match is None:
        problem = "no host and port in it"
    elif match["port"] and not 1 <= int(match["port"]) <= _LAST_PORT:
        problem = f"port {match['port']} is not from 1 to {_LAST_PORT}"
    elif match["path"] and protocol == "grpc":
        problem = "gRPC takes no path"
    else:
        try:
            if match["ipv6"]:
                ipaddress.IPv6Address(match["ipv6"])
            else:
                match["host"].encode("idna")
        except ValueError as error:
            problem = f"no such host can be: {error}"
    if problem:
        raise ValueError(f"{url!r}: {problem}; expected host:port, as in {DEFAULT_HOST_PORTS[protocol]} or [::1]:8001")
    return text
