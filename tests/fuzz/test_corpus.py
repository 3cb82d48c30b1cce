"""Files that readers once did not survive, the small ones that they read, and what becomes of those by chance.

`make fuzz` looks for more.
"""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest
from fuzz.targets import CORPUS, TARGETS, mutated

SECONDS = 2.0  # of each target
FILES = sorted(CORPUS.glob("*/*"))
INTERESTING = (
    b"\x00",
    b"\x7f",
    b"\xff",
    b"\xff\xff\xff\x7f",
    b"\xff\xff\xff\xff",
    b"-1",
    b"1e999",
    b"NaN",
    b"null",
    b"[",
)


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_read_or_refused(path: Path) -> None:
    """A target lets through what its reader documents, and raises everything else."""
    TARGETS[path.parent.name](path.read_bytes())


@pytest.mark.parametrize("target", TARGETS)
def test_changed_by_chance(target: str, tmp_path: Path) -> None:
    chance = random.Random(target)
    seeds = [path.read_bytes() for path in FILES if path.parent.name == target]
    until = time.monotonic() + SECONDS
    while time.monotonic() < until:
        data = mutated(chance.choice(seeds), lambda part: changed(part, chance))
        (tmp_path / "last").write_bytes(data)  # to be found after a failure, put it into the corpus
        TARGETS[target](data)


def changed(data: bytes, chance: random.Random) -> bytes:
    """One to four places overwritten, cut out, doubled, or filled with what programs trip over."""
    for _ in range(chance.randint(1, 4)):
        at = chance.randint(0, len(data))
        to = min(at + chance.choice((0, 1, 1, 2, 4, 16)), len(data))
        put = chance.choice((b"", chance.randbytes(to - at), data[at:to] * 2, *INTERESTING))
        data = data[:at] + put + data[to:]
    return data


def test_every_target_has_seeds() -> None:
    assert {path.parent.name for path in FILES} == set(TARGETS)
