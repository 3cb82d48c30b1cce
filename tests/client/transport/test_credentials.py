"""What the environment says of a client; that servers get it is tested with a gateway, in tests/docs."""

from __future__ import annotations

from pathlib import Path

import pytest
from nas_client import Credentials, Detector

NAMES = ("NAS_TOKEN", "NAS_TLS_CA", "NAS_TLS_CLIENT_CERT", "NAS_TLS_CLIENT_KEY")


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)


def test_nothing_is_given_where_nothing_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAS_TOKEN", "")
    assert Credentials.of_environment() == Credentials() and not Credentials().headers


def test_all_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    files = [str(tmp_path / name) for name in ("ca", "certificate", "key")]
    for path in files:
        Path(path).touch()
    for name, value in zip(NAMES, ["secret", *files], strict=True):
        monkeypatch.setenv(name, value)
    assert Credentials.of_environment() == Credentials("secret", *files)
    assert Credentials.of_environment().headers == {"authorization": "Bearer secret"}


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("NAS_TOKEN", "to\nken", "no header can carry"),
        ("NAS_TOKEN", "Schlüssel", "no header can carry"),
        ("NAS_TLS_CA", "/gone.pem", "NAS_TLS_CA=/gone.pem: no such file"),
        ("NAS_TLS_CLIENT_KEY", __file__, "go together"),
    ],
)
def test_mistakes_are_named(name: str, value: str, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=says):
        Detector("localhost:1")
