"""A file as other programs run it: in ONNX Runtime if it is installed, else in OpenVINO."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from importlib import metadata
from typing import Any

from numpy.typing import NDArray

Run = Callable[[NDArray[Any]], list[NDArray[Any]]]  # the input to all outputs, in the file's order


def found() -> str:
    """What runs files here: a name of `RUNNERS`."""
    return next(name for name in RUNNERS if importlib.util.find_spec(name))


def opened(file: bytes, by: str | None = None) -> Run:
    """A file's graph, on the CPU.

    Args:
        file: its bytes.
        by: a name of `RUNNERS`; None takes what is found.
    """
    return RUNNERS[by or found()](file)


def version(name: str) -> str:
    """`onnxruntime 1.32.0`."""
    return f"{name} {metadata.version(name)}"


def _in_onnxruntime(file: bytes) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    return lambda array: list(session.run(None, {given.name: array}))


def _in_openvino(file: bytes) -> Run:
    import openvino

    from ..graph.openvino_runner import PRECISION

    core = openvino.Core()
    compiled = core.compile_model(core.read_model(file), "CPU", PRECISION)
    return lambda array: [compiled(array)[port].copy() for port in compiled.outputs]


RUNNERS: Mapping[str, Callable[[bytes], Run]] = {"onnxruntime": _in_onnxruntime, "openvino": _in_openvino}
