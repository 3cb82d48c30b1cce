"""Keeps a Triton answering behind Envoy, and leaves nothing behind.

    NAS_SUPERVISE='{"command": ["tritonserver", ...], ...}' python .../nas_serve/supervision
    NAS_ADMIN_KEY=... python .../nas_serve/supervision tritonserver --model-repository=/models ...

`supervisor` is the loop, `triton` the process it keeps, `questions` what its models are asked. Both ways to start it
run this folder: `python -m` would look for modules in the working directory first, and a PYTHONPATH would reach
Triton's Python models. The standard library, numpy and `nas_ensembles` are all it needs: containers run it too.
"""
