"""Models of a few lines, which load in a second: the server takes any, not only ours."""

from __future__ import annotations

from pathlib import Path

_ECHO = """
import triton_python_backend_utils as pb_utils
class TritonPythonModel:
    def initialize(self, args):
        {initialize}
    def execute(self, requests):
        return [pb_utils.InferenceResponse([pb_utils.Tensor("y", pb_utils.get_input_tensor_by_name(r, "x").as_numpy())])
                for r in requests]
"""
_CONFIG = """
backend: "python" max_batch_size: 1
input {{ name: "x" data_type: TYPE_FP32 dims: 1 }} output {{ name: "y" data_type: TYPE_FP32 dims: 1 }}
instance_group {{ kind: KIND_CPU }}
name: "{name}"
"""


def add_model(folder: Path, name: str, initialize: str = "pass") -> Path:
    """A model into a repository, which is given back; `initialize` is what it does when it is loaded."""
    (folder / name / "1").mkdir(parents=True)
    (folder / name / "1" / "model.py").write_text(_ECHO.format(initialize=initialize))
    (folder / name / "config.pbtxt").write_text(_CONFIG.format(name=name))
    return folder
