from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterator
from typing import Any

import pytest
from nas_build import Options
from nas_build.cli import main
from nas_build.cli.flags import flag, options_from, parameter, with_flags

PARAMETERS = inspect.signature(main.build).parameters
# What the command itself decides.
OF_THE_COMMAND = {"ctx", "verbose", "version", "as_json"}


def option_paths(options: Any, prefix: str = "") -> Iterator[str]:
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if dataclasses.is_dataclass(value):
            yield from option_paths(value, f"{field.name}.")
        else:
            yield prefix + field.name


def test_every_option_has_a_flag_and_every_flag_an_option() -> None:
    assert sorted(map(parameter, option_paths(Options()))) == sorted(PARAMETERS.keys() - OF_THE_COMMAND)


def test_parameters_become_options() -> None:
    options = options_from({"precision": "int8", "int8_budget": 0.3, "plan_with": "docker", "verbose": True})
    assert options.precision == "int8" and options.int8.budget == 0.3 and options.tensorrt.way == "docker"
    assert options.int8.calibration_pictures == Options().int8.calibration_pictures


def test_defaults_are_the_librarys() -> None:
    given = {name: one.default for name, one in PARAMETERS.items() if name not in OF_THE_COMMAND}
    made = options_from({**given, "target": "openvino"})
    server = Options().tensorrt.server or main.DEFAULT_SERVER
    assert made == dataclasses.replace(Options(), tensorrt=dataclasses.replace(Options().tensorrt, server=server))


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("model_repository", "--model-repository"),
        ("int8.calibration", "--calibration"),
        ("int8.budget", "--int8-budget"),
        ("processing=coco", "--processing coco"),
        ("weights=FILE", "--weights FILE"),
    ],
)
def test_flags_that_messages_name(option: str, expected: str) -> None:
    assert flag(option) == expected


def test_a_message_with_flags() -> None:
    assert with_flags("Too few.", ("int8.calibration", "int8.budget")) == "Too few. (--calibration, --int8-budget)"
    assert with_flags("Too few.", ()) == "Too few."
