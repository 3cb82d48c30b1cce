"""Python-based Triton backend `openvino`: runs a model file with OpenVINO on the CPU.

The official CPU container has a C++ backend of the same name that reads the same model repository; this one lets the
embedded server serve it. Inputs and outputs are those of config.pbtxt; `parameters` become OpenVINO properties.

The graph is compiled for one picture: on a CPU a static shape is faster than a dynamic one, and a larger batch is no
faster per picture. It is compiled twice: a picture that comes alone gets all of this instance's threads, several at
once get a stream each. `parameters` that say how (NUM_STREAMS, PERFORMANCE_HINT) are obeyed instead, for both.
"""

from __future__ import annotations

import json
import os
import queue
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import openvino
import triton_python_backend_utils as pb_utils

_HOW = ("NUM_STREAMS", "PERFORMANCE_HINT")


class TritonPythonModel:
    """One instance: one graph, for single pictures and for several at once."""

    @staticmethod
    def auto_complete_config(auto_complete_model_config: Any) -> Any:
        """The config says all."""
        return auto_complete_model_config

    def initialize(self, args: dict[str, str]) -> None:
        """Compile the model file of this version for the cores that this instance may use."""
        config = json.loads(args["model_config"])
        folder = os.path.join(args["model_repository"], args["model_version"])
        path = os.path.join(folder, config["default_model_filename"] or "model.onnx")
        core = openvino.Core()
        graph = core.read_model(path)
        graph.reshape({port: [1, *port.partial_shape[1:]] for port in graph.inputs})
        given = {key: value["string_value"] for key, value in config["parameters"].items()}
        instances = sum(group["count"] for group in config["instance_group"])
        threads = max(1, len(os.sched_getaffinity(0)) // instances)
        # The models beside this one want the cores too: the kernel may move threads out of their way.
        properties = {"INFERENCE_NUM_THREADS": threads, "ENABLE_CPU_PINNING": False, **given}
        alone, several = {"PERFORMANCE_HINT": "LATENCY"}, {"PERFORMANCE_HINT": "THROUGHPUT"}
        if threads == 1 or any(key in given for key in _HOW):
            alone = several = {}
        compiled = core.compile_model(graph, "CPU", {**alone, **properties})
        self._alone = compiled.create_infer_request()
        if alone != several:
            compiled = core.compile_model(graph, "CPU", {**several, **properties})
        self._stream_count = compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")
        self._free: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for _ in range(self._stream_count):
            self._free.put(compiled.create_infer_request())
        self._workers = ThreadPoolExecutor(2 * self._stream_count)  # so many compute, as many answer
        self._inputs = [tensor["name"] for tensor in config["input"]]
        self._outputs = [tensor["name"] for tensor in config["output"]]

    def execute(self, requests: list[Any]) -> None:
        """Start the pictures of all requests, each as soon as a stream is free.

        Each request is answered when its own pictures are done: nobody waits for the slowest of a batch, and no stream
        for the next batch. What Triton counts as this model's compute time is therefore not that of a request, but for
        pictures that come alone.
        """
        jobs = [_Job(request, self._inputs, self._outputs) for request in requests]
        if sum(job.pictures for job in jobs) == 1 and self._free.qsize() == self._stream_count:
            jobs[0].compute(self._alone, 0)
            jobs[0].answer_if_done()
            return
        for job in jobs:
            for i in range(job.pictures):
                self._workers.submit(self._run, self._free.get(), job, i)

    def finalize(self) -> None:
        """Answer what is under way."""
        self._workers.shutdown()

    def _run(self, stream: Any, job: _Job, i: int) -> None:
        job.compute(stream, i)
        self._free.put(stream)
        job.answer_if_done()


class _Job:
    """A request: its pictures may be computed in any order, the last one answers it."""

    def __init__(self, request: Any, inputs: list[str], outputs: list[str]) -> None:
        # Read in place from Triton's shared memory, which is there as long as the request is.
        self._request, self._outputs = request, outputs
        self._arrays = {name: pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in inputs}
        self.pictures = len(next(iter(self._arrays.values())))
        self._rows: list[Any] = [None] * self.pictures
        self._left, self._lock = self.pictures, threading.Lock()

    def compute(self, stream: Any, i: int) -> None:
        """One picture; what goes wrong is part of the answer."""
        picture = {name: array[i : i + 1] for name, array in self._arrays.items()}
        try:
            results = stream.infer(picture, share_inputs=True)
            self._rows[i] = [results[name] for name in self._outputs]  # copies: the next run reuses the stream's
        except Exception as error:
            self._rows[i] = error

    def answer_if_done(self) -> None:
        """Called once for each picture; the last call answers."""
        with self._lock:
            self._left -= 1
            if self._left:
                return
        errors = [row for row in self._rows if isinstance(row, Exception)]
        if errors:
            response = pb_utils.InferenceResponse(error=pb_utils.TritonError(f"OpenVINO: {errors[0]}"))
        else:
            columns = (np.concatenate(arrays) for arrays in zip(*self._rows, strict=True))
            response = pb_utils.InferenceResponse(
                [pb_utils.Tensor(name, array) for name, array in zip(self._outputs, columns, strict=True)]
            )
        self._request.get_response_sender().send(response, pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
