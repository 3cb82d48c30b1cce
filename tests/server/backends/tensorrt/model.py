"""Stands in for Triton's TensorRT backend where there is no GPU: the plan it opens is an ONNX graph.

Everything else is Triton's own: the config, the wiring of the ensemble, batching, warm-up, the bounded queue.
"""

import json
import os

import numpy as np
import openvino
import openvino.passes
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    @staticmethod
    def auto_complete_config(auto_complete_model_config):
        return auto_complete_model_config

    def initialize(self, args):
        config = json.loads(args["model_config"])
        path = os.path.join(args["model_repository"], args["model_version"], config["default_model_filename"])
        core = openvino.Core()
        graph = core.read_model(open(path, "rb").read())
        # Signed activations are TensorRT's: OpenVINO computes them as written only without its transformations.
        folding = openvino.passes.Manager()
        folding.register_pass(openvino.passes.ConstantFolding())
        folding.run_passes(graph)
        exact = {"INFERENCE_PRECISION_HINT": "f32", "LP_TRANSFORMS_MODE": "NO"}
        self.model = core.compile_model(graph, "CPU", exact)
        self.outputs = [tensor["name"] for tensor in config["output"]]

    def execute(self, requests):
        pictures = [pb_utils.get_input_tensor_by_name(request, "images").as_numpy() for request in requests]
        batch = np.concatenate(pictures)
        pb_utils.Logger.log_info(f"EXECUTED {len(requests)} requests, {len(batch)} pictures, {batch.dtype}")
        results = self.model(batch)
        ends = np.cumsum([len(part) for part in pictures])[:-1]
        parts = zip(*(np.split(results[name], ends) for name in self.outputs), strict=True)
        return [
            pb_utils.InferenceResponse(
                [pb_utils.Tensor(name, array) for name, array in zip(self.outputs, part, strict=True)]
            )
            for part in parts
        ]
