"""Checkpoint -> network -> ONNX -> engine file -> Triton model repository."""
