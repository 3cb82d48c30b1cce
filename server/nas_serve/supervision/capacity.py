"""How many requests a second the server answers: Envoy refuses what would be too late."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

_BUSY = 8  # requests under way keep a server busy
_ENOUGH = 16  # answers show its speed, though engines count them a batch at a time
_SHORTEST_S, _LONGEST_S = 2.0, 8.0  # of a measurement


@dataclass
class Capacity:
    """An estimate that follows what was seen, of a server that has enough requests.

    Attributes:
        per_s: None until something is known.
    """

    per_s: float | None = None
    _active: int = 0
    _now: float = 0.0
    _answered: tuple[int, ...] = ()
    _since: float = 0.0
    _always_busy: bool = False

    def see_one(self, seconds: float) -> None:
        """How long a request took that was asked alone: one at a time is the least it can do."""
        if self.per_s is None:
            self.per_s = 1 / seconds

    def see(self, active: int, answered: tuple[int, ...], now: float) -> None:
        """Requests under way, and answered since the beginning as one or several count them, at a time in seconds."""
        busy = min(active, self._active) >= _BUSY
        self._now, self._active, self._always_busy = now, active, self._always_busy and busy
        pairs = zip(answered, self._answered or [0] * len(answered), strict=True)
        count, seconds = max(after - before for after, before in pairs), now - self._since
        enough = count >= _ENOUGH or not self._always_busy
        if count >= 0 <= seconds < (_SHORTEST_S if enough else _LONGEST_S):
            return
        # Fewer, if it was started again; no time at all, if the clock was set.
        if self.per_s is not None and 0 < seconds < 2 * _LONGEST_S and count >= 0:
            rate = max(count / seconds, 0.1)
            if self._always_busy:
                self.per_s = (self.per_s + rate) / 2
            else:
                self.per_s = max(self.per_s, rate)  # with fewer requests it shows no more than it was asked for
        self._answered, self._since, self._always_busy = answered, now, busy

    def write(self, path: Path) -> None:
        """For Envoy, all at once: requests a second, those under way, when they were seen; if anything is known."""
        if self.per_s is not None:
            new = path.with_suffix(".new")
            new.write_text(f"{self.per_s:.3f} {self._active} {self._now:.3f}\n", encoding="ascii")
            new.replace(path)
