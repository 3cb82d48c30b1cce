from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from nas_serve.supervision import container
from nas_serve.supervision.settings import KEY, Settings


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Settings]]:
    """Settings whose folders are removed."""
    for name in ("NAS_ADMIN_KEY", "NAS_TLS_CERT", "NAS_TLS_KEY", "NAS_TLS_CLIENT_CA", "NAS_VERIFY_KEY", "NAS_STATE"):
        monkeypatch.delenv(name, raising=False)
    settings: list[Settings] = []
    yield settings
    for one in settings:
        shutil.rmtree(one.front.folder)


def test_triton_gets_ports_of_its_own_and_clients_those_of_the_command(made: list[Settings]) -> None:
    made.append(container.settings(["tritonserver", "--http-port=1234", "--strict-readiness=true"]))
    (settings,) = made
    assert settings.front.ports == {"http": 1234, "grpc": 8001, "metrics": 8002}
    assert settings.command[:2] == ["tritonserver", "--strict-readiness=true"]
    assert f"--http-port={settings.front.triton_ports['http']}" in settings.command
    assert "--http-address=127.0.0.1" in settings.command and settings.front.host == "0.0.0.0"
    assert "--model-repository=/models" in settings.command and settings.model_repository == "/models"
    assert stat.S_IMODE(Path(settings.front.folder).stat().st_mode) == 0o700


def test_keys_stay_out_of_the_command_and_of_tritons_environment(
    made: list[Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"ADMIN_KEY": "secret", "TLS_CERT": "c.pem", "TLS_KEY": "c.key", "VERIFY_KEY": "v.pub"}
    for name, value in given.items():
        monkeypatch.setenv(f"NAS_{name}", value)
    made.append(container.settings(["tritonserver"]))
    front = made[0].front
    assert front.admin_key == "secret" and front.tls is not None and front.tls.client_authority is None
    assert made[0].public_key == "v.pub" and not any(f"NAS_{name}" in os.environ for name in given)
    text = " ".join(made[0].command)
    assert KEY in text and front.triton_key not in text and "secret" not in text


def test_without_an_admin_key_it_is_by_chance(made: list[Settings], monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(2):
        monkeypatch.setenv("NAS_ADMIN_KEY", "")
        made.append(container.settings(["tritonserver"]))
    assert len({one.front.admin_key for one in made} | {one.front.triton_key for one in made}) == 4


def test_a_run_before_was_ready_and_this_one_is_not_yet(
    made: list[Settings], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("NAS_STATE", str(tmp_path / "state"))
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "ready").touch()
    made.append(container.settings(["tritonserver"]))
    assert made[0].state == str(tmp_path / "state")
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["shared-memory"]


def test_shared_memory_of_a_run_that_was_killed_with_its_container_is_cleared_away(
    made: list[Settings], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("NAS_STATE", str(tmp_path))
    made.append(container.settings(["tritonserver"]))
    regions = [Path(f"/dev/shm/{made[0].shm_prefix}1"), Path(f"/dev/shm/another_{os.getpid()}")]
    try:
        for region in regions:
            region.touch()
        made.append(container.settings(["tritonserver"]))
        assert [region.exists() for region in regions] == [False, True]
        assert made[1].shm_prefix != made[0].shm_prefix
        (tmp_path / "shared-memory").write_text("")  # nothing is no prefix
        made.append(container.settings(["tritonserver"]))
        assert regions[1].exists()
    finally:
        for region in regions:
            region.unlink(missing_ok=True)


@pytest.mark.parametrize("given", ["10m", "nan", "-1", "inf"])
def test_a_time_that_is_none_is_named(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAS_START_S", given)
    with pytest.raises(ValueError, match=f"NAS_START_S={given}: expected seconds"):
        container.settings(["tritonserver"])


@pytest.mark.parametrize("given", [{"CLIENT_CA": "ca"}, {"CERT": "c"}, {"KEY": "k"}, {"KEY": "k", "CLIENT_CA": "ca"}])
def test_half_of_tls_is_refused(given: dict[str, str], made: list[Settings], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in given.items():
        monkeypatch.setenv(f"NAS_TLS_{name}", value)
    with pytest.raises(ValueError, match="NAS_TLS_CERT and NAS_TLS_KEY belong together"):
        container.settings(["tritonserver"])
