"""Flags of nas-build and fields of `Options`: the same names, but for a few.

A new option of a build needs a field there and a parameter of the command here, of the field's name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from ..options import Options

# Field to parameter; all others are called like the field itself.
_RENAMED = {"int8.budget": "int8_budget", "tensorrt.way": "plan_with"}


def options_from(parameters: Mapping[str, Any]) -> Options:
    """Of a command's parameters; what is no parameter keeps its default.

    Raises:
        OptionError: see `Options`.
    """
    options: Options = _filled(Options(), parameters)
    return options


def parameter(option: str) -> str:
    """Of a field: `calibration` of `int8.calibration`."""
    return _RENAMED.get(option, option.rpartition(".")[2])


def flag(option: str) -> str:
    """Of a field, with a value if one is given: `--processing coco` of `processing=coco`."""
    name, _, value = option.partition("=")
    return f"--{parameter(name).replace('_', '-')} {value}".rstrip()


def with_flags(message: str, options: tuple[str, ...]) -> str:
    """What the library says and the flags that change it."""
    return f"{message} ({', '.join(map(flag, options))})" if options else message


def _filled(options: Any, parameters: Mapping[str, Any], prefix: str = "") -> Any:
    """A copy of the options with the parameters' values."""
    values = {}
    for one in fields(options):
        value = getattr(options, one.name)
        if is_dataclass(value):
            values[one.name] = _filled(value, parameters, f"{one.name}.")
        else:
            values[one.name] = parameters.get(parameter(prefix + one.name), value)
    return type(options)(**values)
