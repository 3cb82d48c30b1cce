"""The models of a repository that are served, with what they are made of."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from nas_ensembles import contract

from .errors import ServerError
from .supervision.view import names


def with_parts(repository: Path, chosen: Sequence[str]) -> list[str]:
    """The chosen models, and what they are made of; none if none were chosen, which means all.

    Raises:
        ServerError: one is not there.
    """
    wanted = list(dict.fromkeys(chosen))
    for name in wanted:
        config = repository / name / "config.pbtxt"
        if not config.exists():
            there = ", ".join(names(repository))
            raise ServerError(f"{repository}: no model {name} in it; it has: {there}.")
        parts = _steps(config)
        if name in chosen and (repository / contract.frames_name(name)).is_dir():
            parts.insert(0, contract.frames_name(name))
        wanted += [part for part in parts if part not in wanted]
    return wanted


def _steps(config: Path) -> list[str]:
    """Models that an ensemble is made of; none of what is no ensemble or cannot be read: Triton names what is wrong."""
    # Slow to import, and the supervisor, which imports this package, does without.
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2

    with contextlib.suppress(text_format.ParseError, UnicodeDecodeError):
        parsed = text_format.Parse(config.read_text(encoding="utf-8"), model_config_pb2.ModelConfig())
        return [step.model_name for step in parsed.ensemble_scheduling.step]
    return []
