"""An older opset than torch writes, for the TensorRT of DeepStream on Jetsons."""

from __future__ import annotations

import onnx
from onnx import helper, numpy_helper

TRACED = 18  # the oldest that torch writes itself; ONNX's own converter leaves attributes of 18 behind
OPSET = 17  # what TensorRT 8.5 and 8.6 read, and all newer runtimes
IR_VERSION = 8  # of the ONNX releases with that opset


def lower(model: onnx.ModelProto) -> None:
    """Write opset 18 as 17, in place.

    Of the operators that networks and formats here have, two differ: Split, into as many equal parts as it has outputs,
    and ReduceMax, whose axes become an attribute. Others that do are refused by the checker.
    """
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        dropped = {"Split": "num_outputs", "ReduceMax": "noop_with_empty_axes"}.get(node.op_type)
        if dropped is None:
            continue
        kept = [attribute for attribute in node.attribute if attribute.name != dropped]
        if node.op_type == "ReduceMax" and len(node.input) == 2:
            axes = numpy_helper.to_array(constants[node.input[1]]).reshape(-1).tolist()
            del node.input[1:]
            kept.append(helper.make_attribute("axes", axes))
        del node.attribute[:]
        node.attribute.extend(kept)
    read = {name for node in graph.node for name in node.input}
    kept_constants = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.initializer[:]
    graph.initializer.extend(kept_constants)
    del model.opset_import[:]
    model.opset_import.append(helper.make_opsetid("", OPSET))
    model.ir_version = IR_VERSION
