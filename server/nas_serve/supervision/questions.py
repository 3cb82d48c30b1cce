"""What models are asked: an engine its known answer, and its ensemble for an answer at all."""

from __future__ import annotations

import contextlib
import json
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import numpy as np
from nas_ensembles import contract, known_answer
from numpy.typing import NDArray

from .client import NO_ANSWER, Client
from .errors import Failed
from .status import say

_TRIES = 2  # of a question that gets no answer: a batch of a large engine may take a while


@dataclass(frozen=True)
class Engine:
    """A version of an engine that is served, and its known answer; `name` is that of the ensemble."""

    name: str
    version: str
    known: known_answer.KnownAnswer


@dataclass
class Questions:
    """To the models of one repository, over all restarts of its server.

    Attributes:
        repository: where known answers lie.
        client: that asks.
    """

    repository: Path
    client: Client
    _answered: dict[str, int] = field(default_factory=dict)
    _right: set[tuple[str, str]] = field(default_factory=set)
    _wrong: set[tuple[str, str]] = field(default_factory=set)

    def ask_all(self, *, busy_too: bool) -> Iterator[float]:
        """Ask each engine, or only those that have answered nothing since the last time.

        Yields:
            Seconds that an ensemble took, for each that answered.

        Raises:
            Failed: a model answers wrongly, or not at all; one that is only busy is none.
        """
        for engine in self._engines():
            last = contract.stage_name(engine.name, "postprocess")
            if busy_too or self.client.answered(last) == self._answered.get(engine.name):
                seconds = self._ask(engine)
                if seconds is not None:
                    yield seconds
            self._answered[engine.name] = self.client.answered(last)

    def _engines(self) -> Iterator[Engine]:
        suffix = contract.stage_name("", "engine")
        for folder in sorted(self.repository.glob(f"*{suffix}")):
            for version in self.client.versions(folder.name):
                with contextlib.suppress(OSError, ValueError):
                    text = (folder / version / known_answer.FILE).read_text(encoding="utf-8")
                    known = known_answer.KnownAnswer.from_dict(json.loads(text))
                    yield Engine(folder.name.removesuffix(suffix), version, known)

    def _ask(self, engine: Engine) -> float | None:
        """Seconds of the ensemble; None if the model is busy."""
        before = self._counts(engine)
        failure: Exception | None = None
        for _ in range(_TRIES):
            try:
                outputs = self._candidates(engine)
                seconds = self._ask_ensemble(engine)
            except HTTPError as error:
                message = error.read().decode(errors="replace")
                if "maximum queue size" in message or error.code in (404, 503):
                    return None
                raise Failed(f"{engine.name} answers: {message[:300]}") from None
            except NO_ANSWER as error:
                if self._is_busy(engine, before):
                    return None
                failure = error
            else:
                self._judge(engine, engine.known.agreement(*outputs))
                return seconds
        raise Failed(f"{engine.name} gives no answer: {failure}")

    def _counts(self, engine: Engine) -> tuple[int, int]:
        """Answers of the engine, and of its postprocessing."""
        engines, last = (
            self.client.answered(contract.stage_name(engine.name, part)) for part in ("engine", "postprocess")
        )
        return engines, last

    def _is_busy(self, engine: Engine, before: tuple[int, int]) -> bool:
        """Whether others get answers, or it computes for some that have given up: none waits behind the engine then."""
        computed, answered = (now - then for now, then in zip(self._counts(engine), before, strict=True))
        in_line, behind = (
            self.client.waiting(contract.stage_name(engine.name, part)) for part in ("engine", "postprocess")
        )
        return answered > 0 or (computed > 0 and in_line > 0 and behind == 0)

    def _candidates(self, engine: Engine) -> list[NDArray[Any]]:
        canvas = engine.known.canvas
        model = f"{contract.stage_name(engine.name, 'engine')}/versions/{engine.version}"
        given = (contract.IMAGES, [1, *canvas.shape], canvas.tobytes())
        return self.client.infer(model, given, contract.CANDIDATE_TENSORS)

    def _ask_ensemble(self, engine: Engine) -> float:
        """Seconds until it answers."""
        picture = bmp(engine.known.picture)
        began = time.monotonic()
        self.client.infer(engine.name, (contract.IMAGE, [1, 1], struct.pack("<I", len(picture)) + picture))
        return time.monotonic() - began

    def _judge(self, engine: Engine, agreement: float) -> None:
        which = (engine.name, engine.version)
        if agreement >= known_answer.LIMIT:
            self._right.add(which)
        elif which in self._right:
            raise Failed(f"{engine.name} answers wrongly: agreement with the known answer {agreement:.2f}")
        elif which not in self._wrong:  # starting it again would change nothing
            self._wrong.add(which)
            say("wrong", f"{engine.name}: agreement with the known answer {agreement:.2f}; see nas-client check")


def bmp(picture: NDArray[np.uint8]) -> bytes:
    """An uncompressed bitmap of (h, w, 3) RGB: needs no library."""
    height, width = picture.shape[:2]
    row = width * 3 + -(width * 3) % 4
    pixels = np.zeros((height, row), np.uint8)
    pixels[:, : width * 3] = picture[::-1, :, ::-1].reshape(height, -1)
    file_header = struct.pack("<2sIII", b"BM", 54 + pixels.size, 0, 54)
    return file_header + struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0) + pixels.tobytes()
