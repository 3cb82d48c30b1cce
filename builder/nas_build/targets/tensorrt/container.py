"""A container to run commands in, of any Docker engine, also a remote one.

Its files go in and out through the engine's own API and nothing is mounted: nothing is left behind that belongs to
root, and DOCKER_HOST may name another machine.
"""

from __future__ import annotations

import contextlib
import io
import posixpath
import shutil
import tarfile
from collections.abc import Generator, Iterator, Sequence
from typing import Any

from nas_eval.downloads import Progress

from ...errors import PlanError
from .executors import CommandError, Executor

_FOLDER = "/tmp/nas-build"
_TOOLKIT = (
    "install the NVIDIA Container Toolkit and restart the engine: "
    "https://docs.nvidia.com/datacenter/cloud-native/container-toolkit"
)


@contextlib.contextmanager
def docker_engine() -> Iterator[Any]:
    """A client of the engine that DOCKER_HOST names, or the local one.

    Raises:
        PlanError: if the SDK or the engine is not there.
    """
    try:
        import docker
    except ImportError:
        raise PlanError("the Docker SDK is not installed: pip install 'nas-triton[docker]'") from None
    client = None
    try:
        client = docker.from_env(use_ssh_client=True)  # ssh:// as the user's own ssh does it
        client.ping()
    except (docker.errors.DockerException, OSError) as error:
        raise PlanError(
            f"no Docker engine answers: {error}. Start one, or name another machine's with DOCKER_HOST=ssh://user@host"
        ) from None
    with contextlib.closing(client):
        yield client


def require_gpu(client: Any) -> None:
    """Fail before a pull of gigabytes.

    Raises:
        PlanError: if the engine has neither NVIDIA's runtime nor its CDI devices, nor this machine its hook.
    """
    info = client.info()
    devices = [device for device in info.get("DiscoveredDevices") or [] if "nvidia" in str(device)]
    hook = shutil.which("nvidia-container-runtime-hook")  # enough for an engine of this machine
    if "nvidia" not in info.get("Runtimes", {}) and not devices and not hook:
        raise PlanError(f"the Docker engine {info.get('Name', '')!r} gives containers no NVIDIA GPU; {_TOOLKIT}")


@contextlib.contextmanager
def container(image: str, device: str | None, longest_s: int, progress: Progress) -> Iterator[Executor]:
    """A container that waits for commands; it is removed in the end, on Ctrl-C too.

    Args:
        image: pulled if it is not there.
        device: index or UUID of the GPU to ask for; None for none.
        longest_s: it ends by itself after so long, in case this process is killed.
        progress: of the pull.

    Raises:
        PlanError: if there is no such image, it cannot be started, or it ends before its time.
    """
    import docker

    with docker_engine() as client:
        _pull(client, image, progress)
        requests = [docker.types.DeviceRequest(device_ids=[device], capabilities=[["gpu"]])] if device else []
        created = client.containers.create(
            image,
            entrypoint=["sleep"],
            command=[str(longest_s)],
            device_requests=requests,
            labels={"nas-build": "plan"},
            network_mode="none",
            auto_remove=True,
            init=True,
        )
        try:
            _start(created, image)
            running = _Container(client, created)
            list(running.run(["mkdir", "-p", _FOLDER], folder="/"))
            yield running
        except (docker.errors.DockerException, OSError) as error:  # connections that break are OSErrors
            raise PlanError(f"{image}: the container or its Docker engine failed: {error}") from None
        finally:
            try:
                created.remove(force=True, v=True)
            except docker.errors.APIError as error:
                if error.status_code not in (404, 409):  # gone, or going, by itself
                    raise


def _start(created: Any, image: str) -> None:
    import docker

    try:
        created.start()
    except docker.errors.APIError as error:
        if "device driver" in str(error.explanation) or "nvidia" in str(error.explanation):
            raise PlanError(f"the Docker engine gives containers no NVIDIA GPU; {_TOOLKIT}") from None
        raise PlanError(f"{image}: cannot be started: {error.explanation}") from None


def _pull(client: Any, image: str, progress: Progress) -> None:
    import docker
    from docker.utils import parse_repository_tag

    try:
        client.images.get(image)
        return
    except docker.errors.ImageNotFound:
        pass
    name, tag = parse_repository_tag(image)
    layers: dict[str, tuple[int, int]] = {}
    try:
        for event in client.api.pull(name, tag or "latest", stream=True, decode=True):
            if "error" in event:
                raise PlanError(f"{image}: cannot be pulled: {event['error']}")
            detail = event.get("progressDetail") or {}
            if event.get("status") == "Downloading" and detail.get("total"):
                layers[event["id"]] = (detail["current"], detail["total"])
                progress("pull", *(sum(column) for column in zip(*layers.values(), strict=True)))
    except docker.errors.APIError as error:
        raise PlanError(f"{image}: cannot be pulled: {error.explanation}") from None


class _Container:
    def __init__(self, client: Any, container: Any) -> None:
        self._api = client.api
        self._container = container

    def run(self, command: Sequence[str], folder: str = _FOLDER) -> Generator[str, None, None]:
        from docker.utils.socket import frames_iter

        execution = self._api.exec_create(self._container.id, list(command), workdir=folder)["Id"]
        lines: list[str] = []
        rest = b""
        # Not stream=True: the SDK cannot close such a stream when it comes through ssh.
        with contextlib.closing(self._api.exec_start(execution, socket=True)) as stream:
            for _, chunk in frames_iter(stream, tty=False):  # type: ignore[no-untyped-call]
                *complete, rest = (rest + chunk).split(b"\n")
                for line in complete:
                    lines.append(line.decode(errors="replace").rstrip())
                    yield lines[-1]
        if rest:
            lines.append(rest.decode(errors="replace"))
            yield lines[-1]
        if code := self._api.exec_inspect(execution)["ExitCode"]:
            raise CommandError(command, code, lines)

    def put(self, name: str, data: bytes) -> None:
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
        self._container.put_archive(_FOLDER, archive.getvalue())

    def get(self, name: str) -> bytes:
        import docker

        try:
            chunks, _ = self._container.get_archive(posixpath.join(_FOLDER, name))
        except docker.errors.NotFound:
            return b""
        with tarfile.open(fileobj=io.BytesIO(b"".join(chunks))) as tar:
            file = tar.extractfile(name)
            return file.read() if file else b""
