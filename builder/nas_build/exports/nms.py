"""NMS as ONNX operators, behind a graph that gives `boxes` [B, K, 4] and `scores` [B, K, C]."""

from __future__ import annotations

import onnx
from nas_ensembles import contract

from .opset import IR_VERSION, OPSET

BOXES, SCORES = "boxes", "scores"
SCORE_THRESHOLD = "nms_score_threshold"

# `NonMaxSuppression` answers (picture, class, anchor) in an order of the runtime's own. Their scores are put into a
# tensor of zeros, and its best are taken: sorted, of each picture at most so many, with a batch of any size.
# Mod and Where: a runtime that fills up the operator's answer with -1 points at the last pair, which must stay out.
_SELECT = """
  nms_by_class = Transpose <perm = [0, 2, 1]> (scores)
  nms_found = NonMaxSuppression (boxes, nms_by_class, nms_most, nms_iou_threshold, nms_score_threshold)
  nms_ordered = Gather <axis = 1> (nms_found, nms_order)
  nms_shape = Shape (scores)
  nms_pairs = Mod (nms_ordered, nms_shape)
  nms_values = GatherND (scores, nms_pairs)
  nms_clear = Greater (nms_values, nms_score_threshold)
  nms_clear_values = Where (nms_clear, nms_values, nms_zero)
  nms_zeros = ConstantOfShape (nms_shape)
  nms_kept = ScatterND (nms_zeros, nms_pairs, nms_clear_values)
  nms_row = Flatten <axis = 1> (nms_kept)
  nms_best, nms_index = TopK <axis = 1> (nms_row, nms_most)
  nms_anchors = Div (nms_index, nms_classes)
  nms_labels = Mod (nms_index, nms_classes)
  nms_anchor_rows = Unsqueeze (nms_anchors, nms_last)
  nms_boxes = GatherND <batch_dims = 1> (boxes, nms_anchor_rows)
  nms_there = Greater (nms_best, nms_zero)
"""
# What is not there is -1 everywhere.
_PADDED = """
  nms_there_rows = Unsqueeze (nms_there, nms_last)
  pred_boxes = Where (nms_there_rows, nms_boxes, nms_minus_one)
  pred_scores = Where (nms_there, nms_best, nms_minus_one)
  pred_classes = Where (nms_there, nms_labels, nms_minus_one_label)
"""
BATCH = (
    "int64[B, 1] num_predictions, float[B, {most}, 4] pred_boxes, float[B, {most}] pred_scores, "
    "int64[B, {most}] pred_classes",
    _PADDED
    + """
  nms_counted = Cast <to = 7> (nms_there)
  num_predictions = ReduceSum <keepdims = 1> (nms_counted, nms_last)
""",
)
FLAT = (
    "float[N, 7] flat_predictions",
    """
  nms_where_across = NonZero (nms_there)
  nms_where = Transpose (nms_where_across)
  nms_picture_index = Gather <axis = 1> (nms_where, nms_first)
  nms_picture = Cast <to = 1> (nms_picture_index)
  nms_flat_boxes = GatherND (nms_boxes, nms_where)
  nms_flat_score = GatherND (nms_best, nms_where)
  nms_flat_scores = Unsqueeze (nms_flat_score, nms_last)
  nms_flat_index = GatherND (nms_labels, nms_where)
  nms_flat_label = Cast <to = 1> (nms_flat_index)
  nms_flat_labels = Unsqueeze (nms_flat_label, nms_last)
  flat_predictions = Concat <axis = 1> (nms_picture, nms_flat_boxes, nms_flat_scores, nms_flat_labels)
""",
)
# FLAT of one picture, with as many rows whatever is there: no size of the file's tensors depends on the picture.
FIXED = (
    "float[{most}, 7] flat_predictions",
    _PADDED
    + """
  nms_score_rows = Unsqueeze (pred_scores, nms_last)
  nms_class_numbers = Cast <to = 1> (pred_classes)
  nms_class_rows = Unsqueeze (nms_class_numbers, nms_last)
  nms_picture = Mul (nms_score_rows, nms_zero)
  nms_rows = Concat <axis = 2> (nms_picture, pred_boxes, nms_score_rows, nms_class_rows)
  flat_predictions = Squeeze (nms_rows, nms_first)
""",
)


def append(model: onnx.ModelProto, output: tuple[str, str], thresholds: contract.Thresholds) -> None:
    """Put NMS behind a graph, in place.

    Args:
        model: whose outputs are `boxes` and `scores`.
        output: `BATCH`, `FLAT` or `FIXED`.
        thresholds: score: strictly more; iou: of two boxes of a class that overlap more, the better stays.
    """
    batch, anchors, classes = model.graph.output[1].type.tensor_type.shape.dim
    most = min(thresholds.max_detections, anchors.dim_value * classes.dim_value)
    declared, nodes = output
    declared = declared.replace("B", batch.dim_param or str(batch.dim_value)).format(most=most)
    text = f"""
<ir_version: {IR_VERSION}, opset_import: ["" : {OPSET}]>
nms (float[A, K, 4] boxes, float[A, K, C] scores) => ({declared})
<
  int64[1] nms_most = {{{most}}},
  float[1] nms_iou_threshold = {{{thresholds.iou:.9f}}},
  float[1] {SCORE_THRESHOLD} = {{{thresholds.score:.9f}}},
  int64[3] nms_order = {{0, 2, 1}},
  int64 nms_classes = {{{classes.dim_value}}},
  float nms_zero = {{0.0}},
  float nms_minus_one = {{-1.0}},
  int64 nms_minus_one_label = {{-1}},
  int64[1] nms_first = {{0}},
  int64[1] nms_last = {{-1}}
>
{{
{_SELECT}{nodes}
}}
"""
    tail = onnx.parser.parse_model(text).graph
    read = {name for node in tail.node for name in node.input}
    graph = model.graph
    graph.node.extend(tail.node)
    graph.initializer.extend(tensor for tensor in tail.initializer if tensor.name in read)
    del graph.output[:]
    graph.output.extend(tail.output)


def with_score_threshold(file: bytes, score: float) -> bytes:
    """A file like it, whose NMS lets more through, or less."""
    model = onnx.load_model_from_string(file)
    (threshold,) = (tensor for tensor in model.graph.initializer if tensor.name == SCORE_THRESHOLD)
    threshold.CopyFrom(onnx.helper.make_tensor(SCORE_THRESHOLD, onnx.TensorProto.FLOAT, [1], [score]))
    changed: bytes = model.SerializeToString()
    return changed
