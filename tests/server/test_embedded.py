"""Starting and stopping the real server, and what is left when things go wrong."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import psutil
import pytest
from nas_ensembles import admin_key
from nas_serve import Server, ServerError

from support.echo import add_model
from support.waiting import until

BIN = Path(sys.executable).parent


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return add_model(tmp_path / "models", "echo")


def shared_memory(pid: int) -> list[Path]:
    return list(Path("/dev/shm").glob(f"nas_serve_{pid}_*"))


def nas_serve(models: Path, *arguments: str, **kwargs: object) -> subprocess.Popen[str]:
    command = [str(BIN / "nas-serve"), "--model-repository", str(models), *ports("0", "0", "0"), *arguments]
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **kwargs)  # type: ignore[call-overload,no-any-return]


def wait_until_ready(process: subprocess.Popen[str]) -> None:
    assert process.stderr is not None
    while "Ctrl-C" not in process.stderr.readline():
        assert process.poll() is None


def family(process: subprocess.Popen[str], name: str = "") -> list[psutil.Process]:
    return [p for p in psutil.Process(process.pid).children(recursive=True) if name in p.name()]


def gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def ports(http: str, grpc: str, metrics: str) -> list[str]:
    return ["--http-port", http, "--grpc-port", grpc, "--metrics-port", metrics]


def test_serves_any_repository_on_loopback_and_leaves_nothing(models: Path) -> None:
    others = set(psutil.Process().children(recursive=True))
    server = Server(models)
    with server:
        assert httpx.get(f"http://{server.http_url}/v2/models/echo/ready").status_code == 200
        assert "nv_inference_count" in httpx.get(server.metrics_url).text
        processes = set(psutil.Process().children(recursive=True)) - others
        assert any("tritonserver" in process.name() for process in processes)
        listening = {c.laddr.ip for p in processes for c in p.net_connections("inet") if c.status == psutil.CONN_LISTEN}
        assert {ip.removeprefix("::ffff:") for ip in listening} == {"127.0.0.1"}
        before = shared_memory(os.getpid())
        assert any(str(server.ports["http"]) in region.name for region in before)
        assert not any(region.stat().st_mode & 0o077 for region in before)  # clients' pictures are in them
        log, port = server.log_path, server.ports["grpc"]
        assert admin_key.find(port)
    assert admin_key.find(port) is None
    assert not any(process.is_running() for process in processes)
    assert not any(str(server.ports["http"]) in region.name for region in shared_memory(os.getpid()))
    assert not log.exists()
    server.stop()  # harmless


def test_a_command_runs_against_the_server_and_its_exit_code_is_ours(models: Path) -> None:
    code = "import os, sys, httpx; u = os.environ['NAS_HTTP_URL']; os.environ['NAS_URL'];"
    code += "sys.exit(httpx.get(f'http://{u}/v2/health/ready').status_code - 200 + 7)"
    process = nas_serve(models, "--", sys.executable, "-c", code)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 7, errors
    assert until(lambda: not shared_memory(process.pid))


def test_a_command_that_does_not_exist(models: Path) -> None:
    process = nas_serve(models, "--", "no-such-command")
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 1 and "cannot run no-such-command: No such file" in errors


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_no_process_and_no_shared_memory_are_left(number: int, models: Path) -> None:
    process = nas_serve(models)
    wait_until_ready(process)
    processes = family(process)
    assert len(processes) >= 3 and shared_memory(process.pid)  # supervisor, tritonserver, stub
    (triton,) = family(process, "tritonserver")
    (backends,) = (a.partition("=")[2] for a in triton.cmdline() if a.startswith("--backend-directory"))
    process.send_signal(number)
    process.communicate(timeout=300)
    assert process.returncode == (-number if number == signal.SIGKILL else 0)
    assert until(lambda: all(map(gone, processes)))
    assert until(lambda: not shared_memory(process.pid) and not Path(backends).parent.exists())


def test_a_server_in_the_background_of_a_script_can_be_stopped(models: Path) -> None:
    """Shells start background jobs with SIGINT ignored; SIGTERM must not depend on it."""
    command = [BIN / "nas-serve", "--model-repository", models, *ports("0", "0", "0")]
    ignoring = ["sh", "-c", "trap '' INT; exec \"$@\"", "sh", *map(str, command)]
    process = subprocess.Popen(ignoring, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    wait_until_ready(process)
    process.terminate()
    process.communicate(timeout=300)
    assert process.returncode == 0


def test_ctrl_c_while_the_server_starts(tmp_path: Path) -> None:
    models = add_model(tmp_path / "models", "slow", "import time; time.sleep(30)")
    process = nas_serve(models)
    assert until(lambda: len(family(process)) >= 3)
    processes = family(process)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=40)
    assert process.returncode == 0
    assert until(lambda: all(map(gone, processes)))
    assert not shared_memory(process.pid)


def test_shared_memory_of_a_dead_owner_is_swept(models: Path) -> None:
    stale, alive = Path("/dev/shm/nas_serve_999999999_1_x"), Path(f"/dev/shm/nas_serve_{os.getppid()}_1_x")
    stale.touch()
    alive.touch()
    try:
        with Server(models):
            assert not stale.exists() and alive.exists()
    finally:
        alive.unlink()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be somebody else")
def test_what_a_dead_server_of_another_user_left_stops_nobody() -> None:
    stale = Path("/dev/shm/nas_serve_999999999_1_y")
    stale.touch()
    code = "import os; from nas_serve.embedded import _remove_stale_shared_memory as sweep; os.setuid(12345); sweep()"
    try:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert done.returncode == 0 and stale.exists(), done.stderr
    finally:
        stale.unlink()


@pytest.mark.parametrize("host", ["localhost", "::1", "0.0.0.0"])
def test_addresses_to_listen_on(host: str, models: Path) -> None:
    if ":" in host and not has_ipv6():
        pytest.skip("no IPv6")
    with Server(models, host=host) as server:
        assert server.http_url.startswith("[::1]:" if ":" in host else "127.0.0.1:")
        assert httpx.get(f"http://{server.http_url}/v2/models/echo/ready").is_success
        assert httpx.get(server.metrics_url).is_success


def has_ipv6() -> bool:
    with socket.socket(socket.AF_INET6) as probe:
        return probe.connect_ex(("::1", 9)) != errno.EADDRNOTAVAIL


def test_an_address_that_is_none_is_named(models: Path) -> None:
    with pytest.raises(ServerError, match="no-such-host.invalid: no address to listen on"):
        Server(models, host="no-such-host.invalid").start()
    process = nas_serve(models, "--host", "no-such-host.invalid")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1 and "error: no-such-host.invalid: no address" in errors and "Traceback" not in errors
    with pytest.raises(ServerError, match=r"http port \d+ on 192.0.2.1 cannot be had: Cannot assign requested address"):
        Server(models, host="192.0.2.1").start()


def test_a_taken_port_is_named(models: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ServerError, match=rf"grpc port {port} on 127.0.0.1 is taken. .*--grpc-port"):
            Server(models, grpc_port=port).start()


def test_a_repository_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ServerError, match="nope: no such model repository. Build one with: nas-build"):
        Server(tmp_path / "nope").start()


def test_a_repository_without_models(tmp_path: Path) -> None:
    (tmp_path / "README.md").touch()
    with pytest.raises(ServerError, match="no models in it. Build one with: nas-build"):
        Server(tmp_path).start()


def test_a_model_that_is_not_there_is_named(models: Path) -> None:
    with pytest.raises(ServerError, match="nope"):
        Server(models, models=["nope"]).start()


def test_a_model_that_fails_to_load_gives_its_cause(models: Path) -> None:
    add_model(models, "broken", "raise RuntimeError('the disk of weights is missing')")
    process = nas_serve(models)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 1
    assert "a model failed to load" in errors and "broken: " in errors
    assert "the disk of weights is missing" in errors
    assert "echo: " not in errors and "Traceback" not in errors
    assert not shared_memory(process.pid)


def test_a_config_that_cannot_be_read_gives_its_cause(models: Path) -> None:
    (models / "echo" / "config.pbtxt").write_text("no such field: 1")
    with pytest.raises(ServerError, match="failed to load all models|no such field|failed to read|field"):
        Server(models).start()


def test_an_engine_that_is_no_onnx_gives_its_cause(repository: Path, tmp_path: Path) -> None:
    broken = tmp_path / "models"
    shutil.copytree(
        repository, broken, ignore=lambda _, names: [n for n in names if "yolo_nas_" in n and "s_int8" not in n]
    )
    (broken / "yolo_nas_s_int8_engine/1/model.onnx").write_bytes(b"not a graph")
    (broken / "yolo_nas_s_int8/1/manifest.json").unlink()  # or it is refused before anybody reads it
    with pytest.raises(ServerError, match="yolo_nas_s_int8_engine: .*model.onnx"):
        Server(broken).start()


def test_a_folder_for_temporary_files_whose_path_is_too_long_for_a_socket(models: Path, tmp_path: Path) -> None:
    deep = tmp_path / ("long" * 25)
    deep.mkdir()
    process = nas_serve(models, "--", "true", env=os.environ | {"TMPDIR": str(deep)})
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 1 and "set TMPDIR to a shorter folder" in errors, errors


def test_only_the_chosen_models_are_loaded(models: Path) -> None:
    add_model(models, "other")
    with Server(models, models=["other"]) as server:
        ready = [httpx.get(f"http://{server.http_url}/v2/models/{n}/ready").status_code for n in ("other", "echo")]
    assert ready == [200, 400]


def test_too_slow_to_start(tmp_path: Path) -> None:
    models = add_model(tmp_path / "models", "slow", "import time; time.sleep(30)")
    with pytest.raises(ServerError, match="not ready after 2 s"):
        Server(models, timeout_s=2).start()


def test_the_log_that_was_asked_for_is_kept(models: Path, tmp_path: Path) -> None:
    with Server(models, log=tmp_path / "triton.log"):
        pass
    assert "successfully loaded 'echo'" in (tmp_path / "triton.log").read_text()


def test_a_new_version_is_picked_up_by_a_polling_server(models: Path) -> None:
    with Server(models, poll_s=1) as server:
        url = f"http://{server.http_url}/v2/models/echo"
        shutil.copytree(models / "echo" / "1", models.parent / "staged")
        (models.parent / "staged").rename(models / "echo" / "2")
        assert until(lambda: httpx.get(url).json().get("versions") == ["2"], 120)


def test_it_gives_up_when_restarts_do_not_help(models: Path) -> None:
    """A model that cannot be loaded any more: the cause, exit code 1, nothing left."""
    process = nas_serve(models)
    wait_until_ready(process)
    (models / "echo" / "1" / "model.py").write_text("no Python")
    family(process, "tritonserver")[0].kill()
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 1
    assert errors.count("restarting:") == 5 and "SIGKILL (out of memory?)" in errors and "gave up:" in errors
    kept = Path(errors.rpartition("Its log: ")[2].strip())
    assert "no Python" in kept.read_text() or "SyntaxError" in kept.read_text()
    kept.unlink()
    assert not shared_memory(process.pid)


def test_a_restart_serves_what_was_checked_then(models: Path) -> None:
    """Not a version that was current once, beside the config of today."""
    with Server(models) as server:
        url = f"http://{server.http_url}/v2/models/echo"
        assert httpx.get(url).json()["versions"] == ["1"]
        shutil.copytree(models / "echo" / "1", models / "echo" / "2")
        assert server._process is not None
        next(p for p in psutil.Process(server._process.pid).children() if p.name() == "tritonserver").kill()
        assert until(lambda: httpx.get(url).is_success and httpx.get(url).json()["versions"] == ["2"])
        supervisor = psutil.Process(server._process.pid)
        assert not [p for p in supervisor.children() if p.status() == psutil.STATUS_ZOMBIE]
