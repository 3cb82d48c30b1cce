"""Keep decoded pictures' memory between requests."""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
_LARGEST_MMAP_THRESHOLD = 32 << 20  # glibc's HEAP_MAX_SIZE / 2
_KEPT = 256 << 20


def keep_freed_memory() -> None:
    """Tell glibc to keep up to 256 MiB of freed memory instead of returning it to the kernel after each picture.

    Otherwise decoding spends a good part of its time on page faults, for the same memory every time. Elsewhere than
    on glibc nothing happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)
        mallopt(_M_TRIM_THRESHOLD, _KEPT)
