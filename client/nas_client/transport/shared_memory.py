"""Frames in system shared memory: a server on this machine reads them where they lie."""

from __future__ import annotations

import contextlib
import os
import time
import weakref
from collections import deque
from collections.abc import Iterator
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import ClientError, SharedMemoryRefused
from .base import SharedTensor, Transport

_PREFIX = "nas_client_"
_FOLDER = Path("/dev/shm")
_IN_USE_S = 2.0  # at most, all regions together, until requests that were given up let go of them


class SharedMemoryForgotten(SharedMemoryRefused):
    """The server was started again since; another region will do."""


class SharedFrames:
    """Regions that are registered with the server once and lent to one request at a time.

    There are as many as there were requests at once, each as large as the largest frame it held. They are released by
    `close`, when this object or the program ends, and by Python's resource tracker if the program is killed; what a
    killed program left registered is unregistered by the next one.

    Args:
        transport: to the server.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._free: deque[_Region] = deque()
        self._all: list[_Region] = []
        self.close = weakref.finalize(self, _release, self._all, transport)

    @contextlib.contextmanager
    def hold(self, frames: NDArray[np.uint8]) -> Iterator[SharedTensor]:
        """Copy frames into a region that is theirs until the end of the block.

        Raises:
            SharedMemoryForgotten: if the server no longer knows a region that it read before.
            SharedMemoryRefused: if there is no room for it, or the server does not take it.
        """
        try:
            region = self._free.popleft()
        except IndexError:
            region = None
        if region is None or region.memory.size < frames.nbytes:
            region = self._grow(region, frames.nbytes)
        np.copyto(np.ndarray(frames.shape, np.uint8, region.memory.buf), frames)
        try:
            yield SharedTensor(region.name, frames.shape, "UINT8", frames.nbytes)
            region.was_read = True
        except SharedMemoryRefused as error:
            self._all.remove(region)
            region.remove()
            raise SharedMemoryForgotten(str(error)) if region.was_read else error from None
        except BaseException:
            self._free.append(region)
            raise
        self._free.append(region)

    def _grow(self, old: _Region | None, size: int) -> _Region:
        if old is not None:
            self._all.remove(old)
            _release([old], self._transport)
        try:
            region = _Region(size)
        except OSError as error:
            raise SharedMemoryRefused(f"no shared memory for {size} bytes: {error.strerror}") from error
        self._all.append(region)
        try:
            self._transport.register(region.name, f"/{region.name}", size)
        except ClientError as error:
            self._all.remove(region)
            region.remove()
            raise SharedMemoryRefused(f"the server takes no shared memory: {error}") from error
        if len(self._all) == 1:
            _unregister_stale(self._transport)
        return region


class _Region:
    def __init__(self, size: int) -> None:
        self.memory = SharedMemory(f"{_PREFIX}{os.getpid()}_{os.urandom(4).hex()}", create=True, size=size)
        self.name = self.memory.name
        self.was_read = False
        try:
            with (_FOLDER / self.name).open("rb+") as file:
                os.posix_fallocate(file.fileno(), 0, size)  # a full /dev/shm is an error now, not a SIGBUS later
        except BaseException:
            self.remove()
            raise

    def remove(self) -> None:
        with contextlib.suppress(BufferError):  # a request that was given up may still look at it
            self.memory.close()
        with contextlib.suppress(FileNotFoundError):
            self.memory.unlink()


def _release(regions: list[_Region], transport: Transport) -> None:
    """Those that are still in use after the wait stay registered, for the next program to find."""
    until = time.monotonic() + _IN_USE_S
    while regions:
        region = regions.pop()
        with contextlib.suppress(ClientError):  # the server may be gone
            transport.unregister(region.name, max(0.0, until - time.monotonic()))
        region.remove()


def _unregister_stale(transport: Transport) -> None:
    """Regions of programs that were killed; the server took one of ours, so it sees the same folder."""
    for name in transport.registered():
        if name.startswith(_PREFIX) and not (_FOLDER / name).exists():
            with contextlib.suppress(ClientError):
                transport.unregister(name)
