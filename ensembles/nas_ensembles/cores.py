"""How many cores this process may use."""

from __future__ import annotations

import math
import os
from pathlib import Path

_LIMIT = Path("/sys/fs/cgroup/cpu.max")  # of cgroup 2: microseconds, or "max", in a period of microseconds


def count() -> int:
    """Those that it is bound to, and no more than the limit of its container."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = _LIMIT.read_text().split()
        return max(1, min(bound, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):
        return bound


def share(of: float) -> int:
    """So many of them, at least one.

    Args:
        of: from 0 to 1.
    """
    return max(1, round(count() * of))
