"""The ways to build a plan, and the first of them that works here.

A plan runs on the TensorRT release and the kind of GPU it was built with. Three ways build one: the `tensorrt` package
in this process (`in_process`), and `trtexec` on this machine or inside the server's own image through Docker
(`trtexec`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ...errors import PlanError
from ...options import PlanWay, TensorRTOptions
from . import servers
from .in_process import InProcess
from .plan import PlanBuilder
from .trtexec import Trtexec

# Those without a download first.
_WAYS: Mapping[PlanWay, Callable[[str], PlanBuilder]] = {
    "trtexec": lambda server: Trtexec.local(),
    "tensorrt": InProcess.find,
    "docker": lambda server: Trtexec.docker(servers.server_image(server)),
}


def find(options: TensorRTOptions) -> PlanBuilder:
    """The first way that works here, or the one that was asked for, if the server loads its plans.

    Raises:
        PlanError: says of each way what is missing and how to get it.
    """
    server = options.server or servers.DEFAULT_SERVER
    problems = []
    for name, probe in _WAYS.items():
        if options.way not in ("auto", name):
            continue
        try:
            builder = probe(server)
            version = builder.identity().get("tensorrt_version")
            compatible = options.version_compatible
            problem = servers.misfit(version, server, version_compatible=compatible) if version else None
            if problem is None:
                return builder
        except PlanError as error:
            problem = str(error)
        problems.append(f"{name}: {problem}")
    raise PlanError(
        f"a TensorRT plan for {servers.server_image(server)} cannot be built here.\n  "
        + "\n  ".join(problems)
        + "\n  Or name the server that will load it, or build for the CPU.",
        options=("tensorrt.server", "target=openvino"),
    )
