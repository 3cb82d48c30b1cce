"""Whether a model repository has changed: a model was built, built again, or taken away."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

SETTLED_S = 3.0  # an install is some renames; what was written last is older than this


@dataclass
class Watched:
    """The models of a repository, as they were when they were last accepted.

    Attributes:
        repository: its folder.
    """

    repository: Path
    _accepted: frozenset[tuple[str, int]] = frozenset()
    _seen: frozenset[tuple[str, int]] = frozenset()
    _since: float = 0.0

    @property
    def is_empty(self) -> bool:
        """Whether there is no model."""
        return not any(self.repository.glob("*/config.pbtxt"))

    def accept(self) -> None:
        """What is there now is what is served."""
        self._accepted = self._seen = self._look()

    def forget(self) -> None:
        """Nothing is served."""
        self._accepted, self._since = frozenset(), time.monotonic()

    def changed(self) -> bool:
        """Whether something else is there, and has been for a while."""
        now = self._look()
        if now != self._seen:
            self._seen, self._since = now, time.monotonic()
        return now != self._accepted and time.monotonic() - self._since >= SETTLED_S

    def _look(self) -> frozenset[tuple[str, int]]:
        """Configs and versions, and when they were made."""
        found = set()
        for pattern in ("*/config.pbtxt", "*/[0-9]*"):
            for path in self.repository.glob(pattern):
                try:
                    found.add((str(path), os.stat(path).st_mtime_ns))
                except OSError:  # just removed
                    continue
        return frozenset(found)
