"""Reads Triton's log."""

from __future__ import annotations

import re
from collections import deque
from pathlib import Path


def cause(log: Path) -> str:
    """What the log says went wrong: failures to load, else errors, else its end."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    found = (re.search(r"failed to load '(.*?)' version -?\d+: (.*)", line) for line in lines)
    failures = [f"{match[1]}: {match[2]}" for match in found if match]
    errors = [
        re.sub(r"^[EF]\d{4} \S+ \d+ \S+\] ", "", line).strip('"')
        for line in lines
        if re.match(r"[EF]\d{4} ", line) and "CudaDriverHelper" not in line
    ]
    if failures:
        return "a model failed to load.\n  " + "\n  ".join(dict.fromkeys(failures))
    return "\n  ".join(dict.fromkeys(errors[:5])) or "\n  ".join(deque(lines, 5)) or "it printed nothing."
