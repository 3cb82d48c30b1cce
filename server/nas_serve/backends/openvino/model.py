"""Python-based Triton backend `openvino`: runs a model file with OpenVINO on the CPU.

The official CPU container has a C++ backend of the same name that reads the same model repository; this one lets the
embedded server serve it. Inputs and outputs are those of config.pbtxt; `parameters` become OpenVINO properties.

The graph is compiled for one picture and a batch is run picture by picture: on a CPU a static shape is faster
than a dynamic one, and a larger batch is no faster per picture.
"""

from __future__ import annotations

import json
import os
from typing import Any

import numpy as np
import openvino
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """One instance: one compiled model and one inference request."""

    @staticmethod
    def auto_complete_config(auto_complete_model_config: Any) -> Any:
        """The config says all."""
        return auto_complete_model_config

    def initialize(self, args: dict[str, str]) -> None:
        """Compile the model file of this version."""
        config = json.loads(args["model_config"])
        folder = os.path.join(args["model_repository"], args["model_version"])
        path = os.path.join(folder, config["default_model_filename"] or "model.onnx")
        core = openvino.Core()
        graph = core.read_model(path)
        graph.reshape({port: [1, *port.partial_shape[1:]] for port in graph.inputs})
        properties = {key: value["string_value"] for key, value in config["parameters"].items()}
        self._request = core.compile_model(graph, "CPU", properties).create_infer_request()
        self._inputs = [tensor["name"] for tensor in config["input"]]
        self._outputs = [tensor["name"] for tensor in config["output"]]

    def execute(self, requests: list[Any]) -> list[Any]:
        """One response per request."""
        return [self._respond(request) for request in requests]

    def _respond(self, request: Any) -> Any:
        inputs = {name: pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in self._inputs}
        batch = len(next(iter(inputs.values())))
        rows = []
        try:
            for i in range(batch):
                # Read in place from Triton's shared memory; the results are copied before the next run reuses them.
                results = self._request.infer(
                    {name: array[i : i + 1] for name, array in inputs.items()}, share_inputs=True
                )
                rows.append([results[name] for name in self._outputs])
        except RuntimeError as error:
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(f"OpenVINO: {error}"))
        columns = (np.concatenate(arrays) for arrays in zip(*rows, strict=True))
        return pb_utils.InferenceResponse(
            [pb_utils.Tensor(name, array) for name, array in zip(self._outputs, columns, strict=True)]
        )
