"""What a validation is printed and written as."""

from __future__ import annotations

import csv
import datetime
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any

from nas_ensembles import contract
from nas_eval.dataset import Dataset
from nas_eval.metrics import Metrics, Prediction
from nas_eval.paired_bootstrap import Difference
from rich.table import Column, Table

from ..output import formats
from ..validation import figures, html_report, plots
from ..validation.figures import Subject
from ..validation.html_report import percent
from .terminal import OUT

_ROWS = {
    "mAP 50-95": "map_50_95",
    "mAP 50": "map_50",
    "mAP 75": "map_75",
    "mAP small": "map_small",
    "mAP medium": "map_medium",
    "mAP large": "map_large",
    "AR, 1 detection": "ar_1",
    "AR, 10": "ar_10",
    "AR, 100": "ar_100",
    "AR small": "ar_small",
    "AR medium": "ar_medium",
    "AR large": "ar_large",
}


@dataclass(frozen=True)
class Run:
    """One model over the data set.

    Attributes:
        unanswered: ids of the pictures without an answer.
        retried: requests that were sent again.
        rate: pictures per second, of those that were not answered in an earlier run.
    """

    name: str
    metrics: Metrics
    predictions: list[Prediction]
    unanswered: set[int]
    retried: int
    rate: float


@dataclass(frozen=True)
class Results:
    """Of all models that were measured.

    Attributes:
        dataset: of the classes that all of them know.
        thresholds: of every request.
        runs: one, or those that are compared.
        differences: of each but the first against the first.
    """

    dataset: Dataset
    thresholds: contract.Thresholds
    runs: Sequence[Run]
    differences: Sequence[Difference]

    @property
    def failed(self) -> int:
        """Requests without an answer."""
        return sum(len(run.unanswered) for run in self.runs)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        first, *others = self.runs
        thresholds = zip(contract.THRESHOLDS, astuple(self.thresholds), strict=True)
        return {
            "data": self.dataset.name,
            "pictures": len(self.dataset.pictures),
            "failed": self.failed,
            "retried": sum(run.retried for run in self.runs),
            "protocol": {tensor.name: value for tensor, value in thresholds},
            "models": [{"name": run.name, "pictures_per_second": run.rate, **_plain(run.metrics)} for run in self.runs],
            "differences": [
                {"model": run.name, "against": first.name, **_numbers(asdict(difference))}
                for run, difference in zip(others, self.differences, strict=True)
            ],
        }

    def save_predictions(self, path: Path) -> None:
        """COCO results JSON; of several models a file each, with their name before the suffix."""
        for run in self.runs:
            one = path if len(self.runs) == 1 else path.with_name(f"{path.stem}.{run.name}{path.suffix}")
            formats.write_atomic(one, json.dumps(run.predictions).encode())

    def save_csv(self, path: Path) -> None:
        """Every class's numbers; of several models one after the other, named in the first column."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        several = len(self.runs) > 1
        writer.writerow([*(["model"] if several else []), "class", "objects", "map_50_95", "map_50", "map_75", "ar"])
        for run in self.runs:
            for one in run.metrics.classes:
                numbers = (one.map_50_95, one.map_50, one.map_75, one.ar)
                cells = ["" if math.isnan(value) else f"{value:.6f}" for value in numbers]
                writer.writerow([*([run.name] if several else []), one.name, one.objects, *cells])
        formats.write_atomic(path, text.getvalue().encode())

    def save_plots(self, folder: Path | None, report: Path | None) -> None:
        """Figures and sheets, of several models in a folder each; and all of it as one HTML file."""
        if folder is None and report is None:
            return
        date, pictures = f"{datetime.date.today()}", len(self.dataset.pictures)
        shown = []
        for run in self.runs:
            subject = Subject(run.name, self.dataset.name, pictures, date)
            files = plots.draw(self.dataset, run.predictions, run.metrics, subject, run.unanswered)
            shown.append(html_report.Shown(run.name, run.metrics, files))
            if folder is not None:
                plots.write(folder / run.name if len(self.runs) > 1 else folder, files)
        comparison = {}
        if len(self.runs) > 1:
            names = ", ".join(run.name for run in self.runs)
            measured = {run.name: run.metrics for run in self.runs}
            comparison = figures.comparison(measured, Subject(names, self.dataset.name, pictures, date))
            if folder is not None:
                plots.write(folder, comparison)
        if report is not None:
            facts = self._facts(date)
            page = html_report.html(
                self.dataset.name, facts, _ROWS, shown, self._sentences(), comparison.get("comparison.svg")
            )
            formats.write_atomic(report, page)

    def print(self) -> None:
        """Tables, for people."""
        table = Table(Column(f"{self.dataset.name}, {len(self.dataset.pictures)} pictures", no_wrap=True))
        for run in self.runs:
            table.add_column(run.name, justify="right")
        for title, field in _ROWS.items():
            table.add_row(title, *(percent(getattr(run.metrics, field)) for run in self.runs))
        table.add_section()
        table.add_row("pictures/s", *(f"{run.rate:.1f}" for run in self.runs))
        OUT.print(table)
        for sentence in self._sentences():
            OUT.print(sentence)
        if len(self.runs) > 1:
            return
        classes = Table(
            "class", *(Column(title, justify="right") for title in ("objects", "mAP 50-95", "mAP 50", "AR"))
        )
        for one in self.runs[0].metrics.classes:
            if one.objects:
                classes.add_row(one.name, str(one.objects), *map(percent, (one.map_50_95, one.map_50, one.ar)))
        OUT.print(classes)

    def _facts(self, date: str) -> list[str]:
        asked = self.thresholds
        facts = [
            f"{len(self.dataset.pictures)} pictures, {self.runs[0].metrics.objects} objects, measured {date}.",
            f"Scores above {asked.score:g}, IoU of NMS {asked.iou:g}, at most {asked.max_detections} detections.",
        ]
        return [*facts, f"{self.failed} requests failed."] if self.failed else facts

    def _sentences(self) -> list[str]:
        first, *others = self.runs
        return [
            f"{run.name} less {first.name}: {one.difference * 100:+.2f} mAP 50-95, 95 % interval "
            f"{one.low * 100:+.2f} to {one.high * 100:+.2f} ({one.resamples} paired resamples)"
            for run, one in zip(others, self.differences, strict=True)
        ]


def _plain(measured: Metrics) -> dict[str, Any]:
    """Every number, None where there is nothing to measure."""
    return {
        **_numbers(measured.summary()),
        "classes": [
            {"name": one.name, "objects": one.objects}
            | _numbers({name: getattr(one, name) for name in ("map_50_95", "map_50", "map_75", "ar")})
            for one in measured.classes
        ],
    }


def _numbers(values: Mapping[str, float]) -> dict[str, float | None]:
    """For JSON, which has no NaN."""
    return {name: None if math.isnan(value) else value for name, value in values.items()}
