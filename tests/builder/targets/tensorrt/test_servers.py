from __future__ import annotations

import pytest
from nas_build.targets.tensorrt import servers


@pytest.mark.parametrize(
    ("version", "server", "compatible", "fits"),
    [
        ("11.2.1.3", "26.08", False, True),
        ("11.2.1", "26.08-py3", False, True),
        ("11.2.0", "26.08", False, False),
        ("11.2.0", "26.08", True, True),
        ("11.3.0", "26.08", True, False),
        ("10.16.1.11", "26.08", True, False),
        ("10.14.1.48", "25.12", False, True),
        ("10.5.0.18", "my.registry/team/tritonserver:24.10-py3", False, True),
        ("10.6.0", "my.registry:5000/tritonserver:24.10-py3", False, False),
        ("9.0", "mine:latest", False, True),
        ("9.0", "99.99", False, True),
    ],
)
def test_a_plan_is_refused_for_a_server_of_another_tensorrt(
    version: str, server: str, compatible: bool, fits: bool
) -> None:
    problem = servers.misfit(version, server, version_compatible=compatible)
    assert (problem is None) == fits
    if problem:
        assert version in problem and servers.server_image(server) in problem


def test_releases_below_the_security_floor_are_known() -> None:
    assert servers.below_security_floor("26.03") and servers.below_security_floor("registry/tritonserver:24.10-py3")
    assert not servers.below_security_floor("26.05") and not servers.below_security_floor("mine:latest")


def test_images() -> None:
    assert servers.server_image("26.08") == servers.server_image("26.08-py3") == "nvcr.io/nvidia/tritonserver:26.08-py3"
    assert servers.server_image("mine:1") == "mine:1"
