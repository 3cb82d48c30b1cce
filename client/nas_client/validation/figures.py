"""Figures for papers: each as PNG, SVG and PDF, titled with what it shows, of which model, on what data, and when."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from nas_eval.metrics import Metrics
from numpy.typing import NDArray

from .matching import CONFIDENT, SAME_OBJECT_IOU

_KINDS = ("png", "svg", "pdf")
_CURVES = 10  # of classes, besides their mean: all are named
_CLASSES = 20  # in a confusion matrix: all have numbers
_STYLES = ("-", "--", ":")  # after each ten colours
_COMPARED = {"mAP 50-95": "map_50_95", "mAP 50": "map_50", "mAP 75": "map_75"} | {
    f"mAP {size}": f"map_{size}" for size in ("small", "medium", "large")
}


@dataclass(frozen=True)
class Subject:
    """What a figure is of.

    Attributes:
        model: its name, or those of several.
        data: name of the data set.
        pictures: in it.
        date: of the measurement, as 2026-11-25.
    """

    model: str
    data: str
    pictures: int
    date: str

    def __str__(self) -> str:
        """The second line of each title."""
        return f"{self.model} on {self.data}, {self.pictures} pictures, {self.date}"


def curves(
    name: str,
    subject: Subject,
    axes_names: tuple[str, str],
    x: NDArray[np.float64],
    of_classes: Mapping[str, NDArray[np.float64]],
) -> dict[str, bytes]:
    """One curve a class, the first ten of them, and the mean of all.

    Args:
        name: of the files.
        subject: for the title.
        axes_names: of x and y.
        x: (N,).
        of_classes: (N,) each, those with most objects first.

    Returns:
        Content by file name.
    """
    figure, axes = _figure(8.5, 5.5)
    drawn = list(of_classes.items())[:_CURVES]
    for i, (label, y) in enumerate(drawn):
        axes.plot(x, y, linewidth=1.2, label=label, color=f"C{i % 10}", linestyle=_STYLES[i // 10 % len(_STYLES)])
    if of_classes:
        mean = np.mean(list(of_classes.values()), axis=0)
        axes.plot(x, mean, linewidth=2.5, color="black", label=f"mean of {len(of_classes)} classes")
    x_name, y_name = axes_names
    title = f"{y_name[0].upper()}{y_name[1:]} over {x_name} at IoU {SAME_OBJECT_IOU}"
    if len(drawn) < len(of_classes):
        title += f"; the {len(drawn)} classes with most objects"
    _label(axes, title, subject, axes_names)
    return _files(figure, name)


def confusion(matrix: NDArray[np.int64], names: Sequence[str], subject: Subject) -> dict[str, bytes]:
    """Shares of each class's objects, with counts, of the classes that occur most; and all counts as CSV.

    Args:
        matrix: (C + 1, C + 1) counts, as of `matching.confusion`.
        names: of the C classes.
        subject: for the title.
    """
    occur = matrix.sum(axis=0)[:-1] + matrix.sum(axis=1)[:-1]
    ranked = [int(i) for i in np.argsort(-occur, kind="stable") if occur[i]]
    shown = [*sorted(ranked[:_CLASSES]), len(names)]
    counts = matrix[np.ix_(shown, shown)]
    objects = matrix.sum(axis=1)[shown]
    shares = np.where(objects[:, None] > 0, counts / np.maximum(objects[:, None], 1), np.nan)
    labels = [*(names[i] for i in shown[:-1]), "nothing"]
    figure, axes = _figure(max(6.5, 0.45 * len(shown) + 3), max(5.5, 0.45 * len(shown) + 2))
    axes.set_facecolor("0.88")  # seen where there is no share
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, label="share of the true class's objects", shrink=0.8)
    for i, j in zip(*np.nonzero(counts), strict=True):
        ink = "white" if shares[i, j] > 0.5 else "black"
        axes.text(j, i, f"{counts[i, j]}", ha="center", va="center", fontsize=8, color=ink)
    axes.set_xticks(range(len(shown)), labels, rotation=90)
    axes.set_yticks(range(len(shown)), labels)
    title = f"Confusion, score above {CONFIDENT}, IoU at least {SAME_OBJECT_IOU}"
    if len(ranked) > _CLASSES:
        title += f"\n{_CLASSES} of {len(ranked)} classes that occur: those with most objects and predictions"
    if not objects.all():
        title += "\ngrey: no object of that class"
    axes.set(xlabel="predicted", ylabel="true")
    axes.set_title(f"{title}\n{subject}", fontsize="medium")
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerows([["true \\ predicted", *names, "nothing"]])
    writer.writerows([name, *row] for name, row in zip([*names, "nothing"], matrix.tolist(), strict=True))
    return _files(figure, "confusion_matrix") | {"confusion_matrix.csv": table.getvalue().encode()}


def comparison(measured: Mapping[str, Metrics], subject: Subject) -> dict[str, bytes]:
    """Models side by side: COCO's averages, and the mean precision over recall.

    Args:
        measured: by the model's name, on the same pictures.
        subject: for the title.
    """
    figure, (bars, axes) = _figure(13, 5.5, columns=2)
    high = 0.8 / len(measured)
    for i, (model, metrics) in enumerate(measured.items()):
        values = [100 * getattr(metrics, field) for field in _COMPARED.values()]
        places = np.arange(len(values)) + (i - (len(measured) - 1) / 2) * high
        drawn = bars.barh(places, np.nan_to_num(values), high, color=f"C{i % 10}", label=model)
        bars.bar_label(drawn, ["-" if np.isnan(value) else f"{value:.1f}" for value in values], padding=2, fontsize=8)
        curves_of = [np.maximum(one.precision, 0) for one in metrics.classes if one.objects]
        if curves_of:
            axes.plot(np.linspace(0, 1, 101), np.mean(curves_of, axis=0), color=f"C{i % 10}", label=model)
    bars.set_yticks(range(len(_COMPARED)), list(_COMPARED))
    bars.invert_yaxis()
    bars.set(xlabel="%", xlim=(0, 108))
    bars.set_title("COCO's averages", fontsize="medium")
    bars.grid(alpha=0.3, axis="x")
    _label(axes, f"Mean precision over recall at IoU {SAME_OBJECT_IOU}", subject, ("recall", "precision"))
    return _files(figure, "comparison")


def _label(axes: Any, title: str, subject: Subject, names: tuple[str, str]) -> None:
    axes.set(xlabel=names[0], ylabel=names[1], xlim=(0, 1), ylim=(0, 1.02))
    axes.set_title(f"{title}\n{subject}", fontsize="medium")
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), borderaxespad=0, fontsize="small", frameon=False)


def _figure(width: float, height: float, columns: int = 1) -> tuple[Any, Any]:
    from matplotlib.figure import Figure  # no pyplot: no window, no state

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(ncols=columns)


def _files(figure: Any, name: str) -> dict[str, bytes]:
    from matplotlib import rc_context

    files = {}
    with rc_context(
        {"svg.hashsalt": "nas-client", "pdf.fonttype": 42}
    ):  # the same bytes again; fonts that journals take
        for kind in _KINDS:
            data = io.BytesIO()
            without_time = {"png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}[kind]
            figure.savefig(data, format=kind, dpi=200, metadata=without_time)
            files[f"{name}.{kind}"] = data.getvalue()
    return files
