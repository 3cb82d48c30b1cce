"""Reads Triton's log."""

from __future__ import annotations

import re
from collections import deque
from pathlib import Path


def cause(log: Path) -> str:
    """What the log says went wrong: failures to load, else errors, else its end."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    failures = [m.group(1) for line in lines if (m := re.search(r"failed to load '.*?' version \d+: (.*)", line))]
    errors = [
        re.sub(r"^[EF]\d{4} \S+ \d+ \S+\] ", "", line).strip('"')
        for line in lines
        if re.match(r"[EF]\d{4} ", line) and "CudaDriverHelper" not in line
    ]
    models = [m.group(1) for line in lines if (m := re.search(r"failed to load '(.*?)' version", line))]
    if failures:
        named = [f"{model}: {failure}" for model, failure in zip(models, failures, strict=True)]
        return "a model failed to load.\n  " + "\n  ".join(dict.fromkeys(named))
    return "\n  ".join(dict.fromkeys(errors[:5])) or "\n  ".join(deque(lines, 5)) or "it printed nothing."
