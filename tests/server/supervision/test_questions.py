"""What the supervisor makes of answers; the models are asked in test_supervisor.py."""

from __future__ import annotations

import io
import json
from email.message import Message
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import numpy as np
import pytest
from nas_ensembles import images, known_answer
from nas_serve.supervision import questions
from nas_serve.supervision.errors import Failed
from nas_serve.supervision.questions import Questions

KNOWN = known_answer.KnownAnswer(
    np.arange(5 * 3 * 3, dtype=np.uint8).reshape(3, 5, 3),
    np.array([[0, 0, 10, 10]], np.float32),
    np.array([0.9], np.float32),
    np.array([1], np.int32),
)
RIGHT = [KNOWN.boxes, KNOWN.scores, KNOWN.labels]
WRONG = [KNOWN.boxes, KNOWN.scores, KNOWN.labels + 1]


class Triton:
    """Answers `m` with what it is told, or raises it.

    Attributes:
        counts: of answers, by model; each ends with the one that stays.
        asked: models.
        in_line: requests that wait, by model.
    """

    def __init__(self) -> None:
        self.engine: list[Any] | Exception = RIGHT
        self.counts: dict[str, list[int]] = {}
        self.asked: list[str] = []
        self.in_line: dict[str, int] = {}

    def versions(self, model: str) -> list[str]:
        return ["1"]

    def answered(self, model: str) -> int:
        counts = self.counts.get(model, [0])
        return counts.pop(0) if len(counts) > 1 else counts[0]

    def waiting(self, model: str) -> int:
        return self.in_line.get(model, 0)

    def infer(self, model: str, given: Any, wanted: Any = ()) -> list[Any]:
        self.asked.append(model)
        if isinstance(self.engine, Exception):
            raise self.engine
        return self.engine if wanted else []


@pytest.fixture
def triton() -> Triton:
    return Triton()


@pytest.fixture
def asking(triton: Triton, tmp_path: Path) -> Questions:
    engine = tmp_path / "m_engine" / "1"
    engine.mkdir(parents=True)
    (engine / known_answer.FILE).write_text(json.dumps(KNOWN.to_dict()))
    return Questions(tmp_path, triton)  # type: ignore[arg-type]


def everyone(asking: Questions) -> list[float]:
    return list(asking.ask_all(busy_too=True))


def error(code: int, text: str) -> HTTPError:
    return HTTPError("http://x", code, "", Message(), io.BytesIO(text.encode()))


def test_the_engine_is_asked_and_then_the_ensemble(asking: Questions, triton: Triton) -> None:
    (seconds,) = everyone(asking)
    assert seconds >= 0 and triton.asked == ["m_engine/versions/1", "m"]


def test_who_answers_clients_meanwhile_is_not_asked(asking: Questions, triton: Triton) -> None:
    everyone(asking)
    triton.asked.clear()
    triton.counts["m_postprocess"] = [5]
    assert not list(asking.ask_all(busy_too=False)) and not triton.asked
    assert list(asking.ask_all(busy_too=False)) and triton.asked  # it has answered nothing since


def test_an_answer_that_was_right_must_stay_so(asking: Questions, triton: Triton) -> None:
    everyone(asking)
    triton.engine = WRONG
    with pytest.raises(Failed, match="m answers wrongly: agreement with the known answer 0.00"):
        everyone(asking)


def test_an_answer_that_was_never_right_is_told_once(
    asking: Questions, triton: Triton, capsys: pytest.CaptureFixture[str]
) -> None:
    triton.engine = WRONG
    assert everyone(asking) and everyone(asking)
    assert capsys.readouterr().out.count("wrong m: agreement") == 1


@pytest.mark.parametrize(("code", "text"), [(404, ""), (503, ""), (500, "Exceeds maximum queue size")])
def test_a_model_that_is_busy_or_away_is_no_failure(code: int, text: str, asking: Questions, triton: Triton) -> None:
    triton.engine = error(code, text)
    assert everyone(asking) == []


def test_an_error_is_a_failure(asking: Questions, triton: Triton) -> None:
    triton.engine = error(500, "the stub is not healthy")
    with pytest.raises(Failed, match="m answers: the stub is not healthy"):
        everyone(asking)


def test_no_answer_is_a_failure_unless_others_are_answered(asking: Questions, triton: Triton) -> None:
    triton.engine = TimeoutError("timed out")
    with pytest.raises(Failed, match="m gives no answer: timed out"):
        everyone(asking)
    triton.counts["m_postprocess"] = [0, 7]
    assert everyone(asking) == []


def test_an_engine_is_asked_again(asking: Questions, triton: Triton) -> None:
    """A large batch may take longer than a question waits."""
    triton.engine = TimeoutError("timed out")
    with pytest.raises(Failed, match="m gives no answer"):
        everyone(asking)
    assert triton.asked == ["m_engine/versions/1"] * 2


@pytest.mark.parametrize(
    ("computed", "in_line", "behind", "busy"),
    [(1, 5, 0, True), (0, 5, 0, False), (1, 0, 0, False), (1, 5, 1, False)],
    ids=["for others", "hangs", "for nobody", "nothing passes postprocessing"],
)
def test_an_engine_that_computes_for_those_that_gave_up(
    computed: int, in_line: int, behind: int, busy: bool, asking: Questions, triton: Triton
) -> None:
    """They get no answers, and yet nothing hangs."""
    triton.engine = TimeoutError("timed out")
    triton.counts["m_engine"] = [0, computed]
    triton.in_line = {"m_engine": in_line, "m_postprocess": behind}
    if busy:
        assert everyone(asking) == []
    else:
        with pytest.raises(Failed, match="m gives no answer"):
            everyone(asking)


def test_its_picture_is_one_that_can_be_read() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (7, 5, 3), np.uint8)
    np.testing.assert_array_equal(images.decode(questions.bmp(picture)), picture)
