from __future__ import annotations

import socket
from pathlib import Path

import pytest
from nas_serve.supervision import ports


def test_they_differ_are_free_and_not_for_outgoing_connections(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = ports.free_ports()
    assert list(chosen) == ["http", "grpc", "metrics"] and len(set(chosen.values())) == 3
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert first < 11_000 or all(10_000 <= port < first for port in chosen.values())
    everything = tmp_path / "range"
    everything.write_text("1024\t65535\n")
    monkeypatch.setattr(ports, "_RANGE", everything)
    assert all(10_000 <= port < 65_536 for port in ports.free_ports().values())


def test_one_that_is_taken_is_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind((ports.LOOPBACK, 0))
        taken.listen()
        port = taken.getsockname()[1]
        offered = iter([port, 20_101, 20_101, 20_102, port, 20_103, *range(20_200, 20_300)])
        monkeypatch.setattr(ports.random, "choice", lambda _: next(offered))
        chosen = ports.free_ports()
    assert port not in chosen.values() and len(set(chosen.values())) == 3
