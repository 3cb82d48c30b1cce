from __future__ import annotations

from pathlib import Path

import pytest
from nas_serve import ServerError, repository

from support.echo import add_model


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """An ensemble `both` of one step, its frames, and what is none of it."""
    for name in ("step", "both_frames", "other"):
        add_model(tmp_path / "models", name)
    (tmp_path / "models" / "both").mkdir()
    (tmp_path / "models" / "both" / "config.pbtxt").write_text(
        'name: "both" platform: "ensemble" ensemble_scheduling { step { model_name: "step" } }'
    )
    return tmp_path / "models"


def test_chosen_models_bring_their_parts(models: Path) -> None:
    assert repository.with_parts(models, []) == []
    assert repository.with_parts(models, ["other"]) == ["other"]
    assert repository.with_parts(models, ["both", "other"]) == ["both", "other", "both_frames", "step"]


def test_a_model_that_is_not_there_is_named(models: Path) -> None:
    with pytest.raises(ServerError, match="no model nope in it; it has: both, both_frames, other, step"):
        repository.with_parts(models, ["nope"])


def test_a_config_that_cannot_be_read_is_left_to_triton(models: Path) -> None:
    (models / "other" / "config.pbtxt").write_text("no such field: 1")
    assert repository.with_parts(models, ["other"]) == ["other"]
