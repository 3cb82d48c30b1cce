"""The ONNX graph: written, run and checked."""
