"""The Helm chart, and what is rendered from it."""

from __future__ import annotations

from typing import Any

from support.samples import ROOT

CHART = ROOT / "deploy/helm/nas-triton"
Rendered = list[dict[str, Any]]


def of_kind(objects: Rendered, kind: str) -> dict[str, Any]:
    """The only one."""
    (found,) = (one for one in objects if one["kind"] == kind)
    return found
