"""Plans by TensorRT's own parser and builder, see `support.plans`."""

from __future__ import annotations

import _thread
import re
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import tensorrt_rtx as trt
from nas_build.errors import PlanError
from nas_build.progress import BuildProgress
from nas_build.targets.tensorrt.plan import PlanRequest
from onnx import numpy_helper

from support.plans import NO_TIMINGS, PROFILE, Heard, built, for_gpus, with_float_weights

pytestmark = pytest.mark.filterwarnings(NO_TIMINGS)
Graph = Callable[[str], onnx.ModelProto]


@pytest.mark.parametrize("gpu", ["SM89", "SM120"])
@pytest.mark.parametrize("name", [f"{variant}_{precision}" for variant in "sml" for precision in ("fp16", "int8")])
def test_every_model_builds_as_a_strongly_typed_network(name: str, gpu: str, graph: Graph) -> None:
    progress = Heard()
    plan = built(for_gpus(gpu), graph(name), progress)
    assert len(plan.data) > 10_000_000
    layers = next(line for _, line in progress.lines if line.startswith("Layers:")).splitlines()
    convolutions = [line for line in layers if "LayerType: correlation," in line]
    in_int8 = [line for line in convolutions if re.search(r"Inputs: \[ \{[^}]*Datatype: Int8", line)]
    weights_in_int8 = [line for line in convolutions if re.search(r"Constants: \[ \{[^}]*Datatype: Int8", line)]
    if name.endswith("int8"):
        # The two transposed convolutions are not among them: TensorRT for RTX dequantizes and runs them in half.
        assert len(convolutions) == sum(node.op_type == "Conv" for node in graph(name).graph.node)
        assert len(convolutions) == len(in_int8) == len(weights_in_int8)
    else:
        assert convolutions and not in_int8 and not weights_in_int8


def test_one_plan_for_several_gpus_and_any_batch(graph: Graph) -> None:
    both = built(for_gpus("SM89", "SM120"), graph("s_int8"))
    single = built(for_gpus("SM89"), graph("s_int8"), profile=replace(PROFILE, max_batch_size=1, opt_batch_size=1))
    assert both.data != single.data
    facts = both.facts()
    assert facts["tensorrt_version"] == trt.__version__ and facts["gpu"] == "NVIDIA L4"
    assert facts["compute_capability"] == "8.9" and facts["build_seconds"] > 0 and facts["built_with"] == "tensorrt"


def with_quantized_bias(model: onnx.ModelProto) -> str:
    name = "heads.head1.cls_pred"
    position, node = next((i, n) for i, n in enumerate(model.graph.node) if n.name == name)
    (bias,) = (i for i in model.graph.initializer if i.name == node.input[2])
    values = np.round(numpy_helper.to_array(bias).astype(np.float32) / 0.01).astype(np.int32)
    names = ["bias_int32", "bias_scale", "bias_zero"]
    arrays = values, np.asarray(np.float16(0.01)), np.zeros((), np.int32)
    model.graph.initializer.extend(map(numpy_helper.from_array, arrays, names))
    node.input[2] = "bias_dequantized"
    dequantize = onnx.helper.make_node("DequantizeLinear", names, ["bias_dequantized"], name="the_quantized_bias")
    model.graph.node.insert(position, dequantize)
    return "the_quantized_bias"


@pytest.mark.parametrize(
    ("name", "spoil", "reason"),
    [("s_int8", with_quantized_bias, "int8|INT8|type"), ("s_fp16", with_float_weights, "Half but .* Float")],
)
def test_a_graph_tensorrt_refuses_is_refused_by_the_name_of_its_node(
    name: str, spoil: Callable[[onnx.ModelProto], str], reason: str, graph: Graph
) -> None:
    model = onnx.ModelProto.FromString(graph(name).SerializeToString())
    node = spoil(model)
    with pytest.raises(PlanError) as caught:
        built(for_gpus("SM89"), model)
    message = str(caught.value)
    assert message.startswith(f"yolo_nas_s_engine: TensorRT for RTX {trt.__version__} refuses the graph: node {node} (")
    assert re.search(reason, message) and "catchCudaError" not in message


def test_what_is_no_onnx_is_refused() -> None:
    with pytest.raises(PlanError, match="refuses the graph"):
        for_gpus("SM89").build(PlanRequest("engine", b"no graph", PROFILE), BuildProgress())


def test_progress_rises_to_the_end(graph: Graph) -> None:
    progress = Heard()
    built(for_gpus("SM89"), graph("s_fp16"), progress)
    done = progress.done
    assert done == sorted(done) and len(set(done)) > 20 and done[-1] <= 99


def test_ctrl_c_stops_the_build_at_its_next_step(graph: Graph, cache: Path) -> None:
    progress = Heard(on_count=lambda done: None if len(progress.done) > 1 else _thread.interrupt_main())
    with pytest.raises(KeyboardInterrupt):
        built(for_gpus("SM89"), graph("s_fp16"), progress)
    assert not [thread for thread in threading.enumerate() if thread.name == "tensorrt" and thread.is_alive()]
    assert not cache.exists()


def test_timings_are_kept_per_gpu_and_release(graph: Graph, cache: Path) -> None:
    kept = cache / "timing" / f"nvidia-l4-sm89-tensorrt{trt.__version__}.cache"
    built(for_gpus("SM89"), graph("s_fp16"))
    assert [*kept.parent.iterdir()] == [kept] and kept.stat().st_size > 0
    kept.write_bytes(b"of another release")
    built(for_gpus("SM89"), graph("s_fp16"))  # ones that do not fit are left aside


def test_a_plan_is_not_lost_with_its_timings(graph: Graph, cache: Path) -> None:
    cache.write_text("a file where the folder should be")
    progress = Heard()
    assert built(for_gpus("SM89"), graph("s_fp16"), progress).data
    assert [line for level, line in progress.lines if level == "warning" and "cannot be written" in line]
