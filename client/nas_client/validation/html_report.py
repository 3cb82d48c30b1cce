"""A validation as one HTML file that needs nothing else: numbers, figures, sheets."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from nas_ensembles.release import VERSION
from nas_eval.metrics import Metrics

_STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #1f2328; max-width: 1100px; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; margin: 1rem 0; }
td, th { padding: .25rem .8rem; border-bottom: 1px solid #d8dee4; text-align: right; }
td:first-child, th:first-child { text-align: left; }
tbody tr:hover { background: #f3f5f7; }
img { max-width: 100%; display: block; margin: 1rem 0; }
p.facts { color: #59636e; }
summary { cursor: pointer; }
"""
_FIGURES = ("precision_recall", "f1_confidence", "confusion_matrix")


@dataclass(frozen=True)
class Shown:
    """One model's part.

    Attributes:
        model: its name.
        metrics: of its predictions.
        files: as of `plots.draw`.
    """

    model: str
    metrics: Metrics
    files: Mapping[str, bytes]


def html(
    data: str,
    facts: Sequence[str],
    rows: Mapping[str, str],
    models: Sequence[Shown],
    differences: Sequence[str] = (),
    comparison: bytes | None = None,
) -> bytes:
    """The file's content, in UTF-8.

    Args:
        data: name of the data set.
        facts: how it was measured, a sentence each.
        rows: titles and fields of the numbers in the first table.
        models: in the order of its columns.
        differences: between them, a sentence each.
        comparison: SVG of them side by side.
    """
    title = f"{' and '.join(shown.model for shown in models)} on {data}"
    averages = [[name, *(percent(getattr(shown.metrics, field)) for shown in models)] for name, field in rows.items()]
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="facts">{escape(" ".join(facts))}</p>',
        _table(["%", *(shown.model for shown in models)], averages),
        *(f"<p>{escape(sentence)}</p>" for sentence in differences),
        _image(comparison, "svg+xml", "models side by side") if comparison else "",
        *(_model(shown, headed=len(models) > 1) for shown in models),
        f'<p class="facts">nas-triton {VERSION}</p>',
    ]
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{escape(title)}</title>'
    body = "\n".join(part for part in parts if part)
    head += f"<style>{_STYLE}</style>"
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}\n</body></html>\n'.encode()


def percent(share: float) -> str:
    """`68.13`; `-` where there is nothing to measure."""
    return "-" if math.isnan(share) else f"{share * 100:.2f}"


def _model(shown: Shown, *, headed: bool) -> str:
    classes = [
        [one.name, str(one.objects), *map(percent, (one.map_50_95, one.map_50, one.map_75, one.ar))]
        for one in sorted(shown.metrics.classes, key=lambda one: -one.objects)
        if one.objects
    ]
    table = _table(["class", "objects", "mAP 50-95", "mAP 50", "mAP 75", "AR"], classes)
    figures = [_image(shown.files[f"{name}.svg"], "svg+xml", name.replace("_", " ")) for name in _FIGURES]
    sheets = [_image(data, "jpeg", name) for name, data in shown.files.items() if name.endswith(".jpg")]
    heading = f"<h2>{escape(shown.model)}</h2>" if headed else ""
    parts = [heading, *figures, f"<details open><summary>Classes</summary>{table}</details>"]
    if sheets:
        parts.append(f"<details open><summary>Truth and predictions</summary>{''.join(sheets)}</details>")
    return "".join(parts)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["".join(f"<td>{escape(cell)}</td>" for cell in row) for row in rows]
    names = "".join(f"<th>{escape(name)}</th>" for name in head)
    return (
        f"<table><thead><tr>{names}</tr></thead><tbody>{''.join(f'<tr>{line}</tr>' for line in lines)}</tbody></table>"
    )


def _image(data: bytes, kind: str, about: str) -> str:
    return f'<img alt="{escape(about)}" src="data:image/{kind};base64,{base64.b64encode(data).decode()}">'
