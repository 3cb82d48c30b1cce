"""Python-based Triton backend `openvino`: runs a model file with OpenVINO on the CPU.

Triton's own C++ backend of the same name takes full batches only, and knows neither `engine_info` nor known answers; in
the images of this project and in the embedded server this one is in its place. Inputs and outputs are those of
config.pbtxt; `parameters` in capitals become OpenVINO properties.

The graph is compiled for one picture: on a CPU a static shape is faster than a dynamic one, and a larger batch is no
faster per picture. It is compiled twice: a picture that comes alone gets all of this instance's threads, several at
once get a stream each. `parameters` that say how (NUM_STREAMS, PERFORMANCE_HINT) are obeyed instead, for both.

Beside the model file lies a known answer. What was compiled must give it; if it does not, this CPU computes something
else than the graph, and the exact path is taken: no integer kernels, as slow as float32. If that is wrong too the model
is refused. The output `engine_info`, if the config has it and a request asks for it, says which it was.
"""

from __future__ import annotations

import json
import os
import queue
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cores
import known_answer
import numpy as np
import openvino
import openvino.passes
import triton_python_backend_utils as pb_utils

_HOW = ("NUM_STREAMS", "PERFORMANCE_HINT")
_INFO = "engine_info"
_EXACT = {"LP_TRANSFORMS_MODE": "NO", "INFERENCE_PRECISION_HINT": "f32"}


class TritonPythonModel:
    """One instance: one graph, for single pictures and for several at once."""

    @staticmethod
    def auto_complete_config(auto_complete_model_config: Any) -> Any:
        """The config says all."""
        return auto_complete_model_config

    def initialize(self, args: dict[str, str]) -> None:
        """Compile the model file of this version for the cores that this instance may use, and ask the known answer."""
        config = json.loads(args["model_config"])
        name, folder = config["name"], os.path.join(args["model_repository"], args["model_version"])
        path = os.path.join(folder, config["default_model_filename"] or "model.onnx")
        self._inputs = [tensor["name"] for tensor in config["input"]]
        self._outputs = [tensor["name"] for tensor in config["output"] if tensor["name"] != _INFO]
        known = _read_known_answer(folder)
        engine = _Engine(path, config)
        info: dict[str, Any] = {"cpu": engine.cpu, "path": "as built"}
        if known is not None:
            agreement = engine.agreement(known, self._inputs, self._outputs)
            if agreement < known_answer.LIMIT:
                wrong = f"{name}: on this CPU ({engine.cpu}, {engine.kernels}) agreement with the known answer is "
                engine = _Engine(path, config, exact=True)
                exact = engine.agreement(known, self._inputs, self._outputs)
                if exact < known_answer.LIMIT:
                    raise pb_utils.TritonModelException(
                        f"{wrong}{agreement:.2f}, on the exact path {exact:.2f}; expected at least "
                        f"{known_answer.LIMIT:g}. The model file or OpenVINO {openvino.__version__} is not what it was "
                        "built with: build the model again on this machine."
                    )
                pb_utils.Logger.log_warn(
                    f"{wrong}{agreement:.2f}, expected at least {known_answer.LIMIT:g}: it takes the exact path "
                    f"({exact:.2f}), as slow as float32. An fp16 model may be faster here."
                )
                info["path"], agreement = "exact", exact
            info["agreement"] = round(agreement, 4)
        info |= {"kernels": engine.kernels, "openvino": openvino.__version__.partition("-")[0]}
        self._info = json.dumps(info)
        pb_utils.Logger.log_info(f"{name}: {', '.join(f'{key} {value}' for key, value in info.items())}")
        self._alone, streams = engine.alone, engine.streams
        self._stream_count = len(streams)
        self._free: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for stream in streams:
            self._free.put(stream)
        self._workers = ThreadPoolExecutor(2 * self._stream_count)  # so many compute, as many answer

    def execute(self, requests: list[Any]) -> None:
        """Start the pictures of all requests, each as soon as a stream is free.

        Each request is answered when its own pictures are done: nobody waits for the slowest of a batch, and no stream
        for the next batch. What Triton counts as this model's compute time is therefore not that of a request, but for
        pictures that come alone.
        """
        jobs = [_Job(request, self._inputs, self._outputs, self._info) for request in requests]
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


class _Engine:
    """A model file, compiled for a picture alone and for several at once.

    Attributes:
        alone: an infer request with all threads.
        streams: infer requests that run side by side.
        kernels: what computes most of the convolutions.
    """

    def __init__(self, path: str, config: dict[str, Any], exact: bool = False) -> None:
        core = openvino.Core()
        self.cpu = core.get_property("CPU", "FULL_DEVICE_NAME").strip()
        graph = core.read_model(path)
        graph.reshape({port: [1, *port.partial_shape[1:]] for port in graph.inputs})
        given = {key: value["string_value"] for key, value in config["parameters"].items() if key.isupper()}
        if exact:
            given |= _EXACT
            # Weights as float32: not every CPU has a kernel for those that are still int8.
            folding = openvino.passes.Manager()
            folding.register_pass(openvino.passes.ConstantFolding())
            folding.run_passes(graph)
        instances = sum(group["count"] for group in config["instance_group"])
        threads = max(1, cores.count() // instances)
        # The models beside this one want the cores too: the kernel may move threads out of their way.
        properties = {"INFERENCE_NUM_THREADS": threads, "ENABLE_CPU_PINNING": False, **given}
        alone, several = {"PERFORMANCE_HINT": "LATENCY"}, {"PERFORMANCE_HINT": "THROUGHPUT"}
        if threads == 1 or any(key in given for key in _HOW):
            alone = several = {}
        compiled = core.compile_model(graph, "CPU", {**alone, **properties})
        self.kernels = _kernels(compiled)
        self.alone = compiled.create_infer_request()
        if alone != several:
            compiled = core.compile_model(graph, "CPU", {**several, **properties})
        count = compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")
        self.streams = [compiled.create_infer_request() for _ in range(count)]

    def agreement(self, known: known_answer.KnownAnswer, inputs: list[str], outputs: list[str]) -> float:
        """With the known answer, the lower of both ways to run."""
        question = {inputs[0]: known.canvas[None]}
        answers = [request.infer(question) for request in (self.alone, self.streams[0])]
        return min(known.agreement(*(answer[name][0] for name in outputs)) for answer in answers)


class _Job:
    """A request: its pictures may be computed in any order, the last one answers it."""

    def __init__(self, request: Any, inputs: list[str], outputs: list[str], info: str) -> None:
        self._request, self._outputs, self._info = request, outputs, info
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
            tensors = [pb_utils.Tensor(name, array) for name, array in zip(self._outputs, columns, strict=True)]
            if _INFO in self._request.requested_output_names():
                tensors.append(pb_utils.Tensor(_INFO, np.full((self.pictures, 1), self._info.encode(), object)))
            response = pb_utils.InferenceResponse(tensors)
        self._request.get_response_sender().send(response, pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)


def _read_known_answer(folder: str) -> known_answer.KnownAnswer | None:
    """None for a model file that has none beside it."""
    try:
        with open(os.path.join(folder, known_answer.FILE), encoding="utf-8") as file:
            return known_answer.KnownAnswer.from_dict(json.load(file))
    except FileNotFoundError:
        return None


def _kernels(compiled: Any) -> str:
    """Of the convolutions, by OpenVINO's names: `brgconv_avx512_I8`, with its variants for 1 x 1 kernels."""
    names: Counter[str] = Counter()
    for node in compiled.get_runtime_model().get_ops():
        info = node.get_rt_info()
        if "layerType" in info and info["layerType"].astype(str) == "Convolution":
            names[info["primitiveType"].astype(str).replace("_1x1", "")] += 1
    return ", ".join(f"{count} x {name}" for name, count in names.most_common()) or "no convolution"
