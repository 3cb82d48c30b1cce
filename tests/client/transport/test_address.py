"""Where a server is, as people write it."""

from __future__ import annotations

import pytest
from nas_client.transport import Address


@pytest.mark.parametrize(
    ("url", "protocol", "expected"),
    [
        (None, None, Address("grpc", "localhost:8001")),
        (None, "http", Address("http", "localhost:8000")),
        ("gpu1:9001", None, Address("grpc", "gpu1:9001")),
        ("gpu1:9000", "http", Address("http", "gpu1:9000")),
        ("http://gpu1:8000/", None, Address("http", "gpu1:8000")),
        ("https://gpu1", None, Address("http", "gpu1", True)),
        ("grpcs://gpu1:8001", "grpc", Address("grpc", "gpu1:8001", True)),
        ("[::1]:8001", None, Address("grpc", "[::1]:8001")),
        ("http://[fe80::1%eth0]", None, Address("http", "[fe80::1%eth0]")),
        ("http://proxy/triton_a/v1.0/", None, Address("http", "proxy/triton_a/v1.0")),
        ("triton_cpu:65535", None, Address("grpc", "triton_cpu:65535")),
    ],
)
def test_addresses(url: str | None, protocol: str | None, expected: Address) -> None:
    assert Address.parse(url, protocol) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize(("url", "protocol"), [("ftp://x", None), ("http://x", "grpc")])
def test_addresses_that_contradict(url: str, protocol: str | None) -> None:
    with pytest.raises(ValueError, match="unknown scheme|the scheme means HTTP"):
        Address.parse(url, protocol)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        *((url, "no host and port in it") for url in ("", "http://", "grpc://:8001", "localhost:", "a b:1", "h:1?x")),
        *(
            (url, "no host and port in it")
            for url in ("http://[::1", "[::1", "::1", "u:p@h:1", "localhost:abc", "h:-1")
        ),
        *((f"{url}localhost:{port}", f"port {port} is not") for url in ("", "https://") for port in ("0", "99999")),
        ("localhost:100000", "no host and port in it"),
        ("http://[1.2.3.4]:1", "no such host can be"),
        ("http://[:::]", "no such host can be"),
        ("a..b:1", "no such host can be"),
        ("a" * 64, "no such host can be"),
        ("localhost:8001/v2", "gRPC takes no path"),
    ],
)
def test_addresses_that_are_malformed(url: str, problem: str) -> None:
    with pytest.raises(ValueError, match="expected host:port, as in") as caught:
        Address.parse(url, None)
    assert str(caught.value).startswith(f"{url!r}: ") and problem in str(caught.value)


@pytest.mark.parametrize(
    ("host_port", "here", "port"),
    [
        ("localhost:8001", True, 8001),
        ("127.0.0.1:9", True, 9),
        ("[::1]:8000", True, 8000),
        ("gpu1:8001", False, None),
        ("localhost", False, None),  # its port, and so its key, is not known
    ],
)
def test_addresses_of_this_machine(host_port: str, here: bool, port: int | None) -> None:
    address = Address("grpc", host_port)
    assert (address.is_this_machine, address.local_port) == (here, port)


def test_an_address_names_its_protocol() -> None:
    assert str(Address.parse("https://gpu1:1", None)) == "gpu1:1 (HTTP)"
