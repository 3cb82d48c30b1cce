"""nas-client val: measure served models on a data set."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
import time
from collections.abc import Generator, Mapping
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from nas_ensembles import contract
from nas_eval import metrics, paired_bootstrap
from nas_eval.dataset import Dataset
from nas_eval.downloadable import DOWNLOADABLE
from nas_eval.errors import DatasetError
from nas_eval.metrics import Metrics, Prediction
from nas_eval.open_dataset import open_dataset
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Column, Table

from ..detection.detector import RETRIES, Detector
from ..output import formats
from ..validation import measure, plots
from .terminal import (
    ERRORS,
    OUT,
    ProtocolOption,
    Retries,
    Timeout,
    Url,
    connect,
    exit_codes,
    print_error,
    print_retried,
    progress,
)

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


def val(
    data: Annotated[
        str,
        typer.Option(
            help="Ultralytics data set YAML (coco8.yaml), COCO instances JSON with --images, or a name that is "
            f"downloaded: {', '.join(DOWNLOADABLE)}."
        ),
    ],
    images: Annotated[
        Path | None, typer.Option(help="Folder of the pictures of a COCO JSON.", show_default=False)
    ] = None,
    split: Annotated[str, typer.Option(help="Of a YAML: train, val or test.")] = "val",
    limit: Annotated[int | None, typer.Option(min=1, help="Only so many pictures.", show_default=False)] = None,
    url: Url = None,
    protocol: ProtocolOption = None,
    model: Annotated[str | None, typer.Option(help="Needed when the server has several.", show_default=False)] = None,
    compare: Annotated[
        tuple[str, str] | None,
        typer.Option(help="Two models on the same pictures, and how sure their difference is.", show_default=False),
    ] = None,
    score_threshold: Annotated[float, typer.Option(min=0, max=1)] = contract.VALIDATION_THRESHOLDS.score,
    iou_threshold: Annotated[float, typer.Option(min=0, max=1)] = contract.VALIDATION_THRESHOLDS.iou,
    max_detections: Annotated[
        int, typer.Option(min=1, max=contract.DETECTIONS)
    ] = contract.VALIDATION_THRESHOLDS.max_detections,
    ignore_unknown_classes: Annotated[
        bool,
        typer.Option(
            "--ignore-unknown-classes",
            help="Leave out classes that the model lacks (with --compare: either of the two), instead of refusing.",
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON, with every class.")] = False,
    per_class: Annotated[
        Path | None, typer.Option("--csv", help="Write every class's numbers there.", show_default=False)
    ] = None,
    save_predictions: Annotated[
        Path | None, typer.Option(help="Write COCO results JSON there.", show_default=False)
    ] = None,
    save_plots: Annotated[
        Path | None,
        typer.Option(
            "--plots",
            help="Folder for curves, confusion matrix, and sheets of truth beside prediction.",
            show_default=False,
        ),
    ] = None,
    in_flight: Annotated[int, typer.Option(min=1, max=64, help="Requests at a time.")] = 8,
    resume: Annotated[
        bool, typer.Option("--resume/--no-resume", help="Go on where an interrupted run of the same kind stopped.")
    ] = True,
    timeout: Timeout = 60.0,
    retries: Retries = RETRIES,
) -> None:
    """Measure a served model's accuracy with COCO's metrics.

    Examples: nas-client val --data coco8.yaml;
    nas-client val --data instances_val2017.json --images val2017/ --csv classes.csv;
    nas-client val --data coco8.yaml --compare yolo_nas_s_fp16 yolo_nas_s_int8
    """
    if compare and (model or save_predictions or per_class or save_plots):
        raise typer.BadParameter("takes no --model, --csv, --plots or --save-predictions", param_hint="--compare")
    asked = contract.Thresholds(score_threshold, iou_threshold, max_detections)
    with exit_codes(), contextlib.ExitStack() as stack:
        whole = _opened(data, images, split).limited(limit)
        detectors = [
            stack.enter_context(connect(url, protocol, name, timeout, retries)) for name in compare or (model,)
        ]
        categories = [whole.categories_of(one.class_names, ignore_unknown_classes) for one in detectors]
        in_all = set.intersection(*(set(one.values()) for one in categories))
        if not in_all:
            raise DatasetError(f"{whole.name}: none of its classes is known to both models.")
        dataset = whole.restricted([id for id in whole.class_names if id in in_all])
        runs = []
        for detector, its in zip(detectors, categories, strict=True):
            shared = {label: id for label, id in its.items() if id in in_all}
            runs.append(_run(detector, dataset, measure.answers(detector, dataset, shared, asked, in_flight, resume)))
        first = runs[0]
        if save_predictions:
            formats.write_atomic(save_predictions, json.dumps(first.predictions).encode())
        if per_class:
            formats.write_atomic(per_class, _csv(first.metrics).encode())
        if save_plots:
            plots.save(save_plots, dataset, first.predictions, first.metrics, first.unanswered)
        difference = None
        if compare:
            difference = paired_bootstrap.compare(dataset, first.predictions, runs[1].predictions)
        failed = sum(len(run.unanswered) for run in runs)
        report = {
            "data": dataset.name,
            "pictures": len(dataset.pictures),
            "failed": failed,
            "retried": sum(run.retried for run in runs),
            "protocol": {tensor.name: value for tensor, value in zip(contract.THRESHOLDS, astuple(asked), strict=True)},
            "models": [{"name": run.name, "pictures_per_second": run.rate, **_plain(run.metrics)} for run in runs],
            **({"difference": _numbers(asdict(difference))} if difference else {}),
        }
        if as_json:
            OUT.print_json(json.dumps(report))
        else:
            _print(dataset, runs, difference)
    if failed:
        ERRORS.print(f"{failed} of {len(dataset.pictures) * len(runs)} requests failed")
        raise typer.Exit(1)


@dataclass(frozen=True)
class _Run:
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


def _run(detector: Detector, dataset: Dataset, answered: Generator[measure.Answer, None, None]) -> _Run:
    """Take a model's answers, with a bar, and measure them."""
    started = time.monotonic()
    answers = []
    for answer in progress(answered, "val", len(dataset.pictures)):
        if answer.error is not None:
            print_error(f"{answer.picture.path}: {answer.error}; counted as a picture without detections")
        answers.append(answer)
    seconds = time.monotonic() - started
    print_retried(detector)
    fresh = sum(not answer.resumed for answer in answers)
    predictions = [one for answer in answers for one in answer.predictions]
    return _Run(
        name=detector.model.name,
        metrics=metrics.evaluate(dataset, predictions),
        predictions=predictions,
        unanswered={answer.picture.id for answer in answers if answer.error is not None},
        retried=detector.transport.retried,
        rate=fresh / seconds if seconds else 0.0,
    )


def _opened(data: str, images: Path | None, split: str) -> Dataset:
    """The data set, with a bar for each archive that is downloaded for it."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=ERRORS, disable=not ERRORS.is_terminal) as bar:
        tasks: dict[str, TaskID] = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what)
            bar.update(tasks[what], completed=done, total=total)

        return open_dataset(data, images, split, show)


def _print(dataset: Dataset, runs: list[_Run], difference: Any) -> None:
    table = Table(Column(f"{dataset.name}, {len(dataset.pictures)} pictures", no_wrap=True))
    for run in runs:
        table.add_column(run.name, justify="right")
    for title, field in _ROWS.items():
        table.add_row(title, *(_percent(getattr(run.metrics, field)) for run in runs))
    table.add_section()
    table.add_row("pictures/s", *(f"{run.rate:.1f}" for run in runs))
    OUT.print(table)
    if difference:
        OUT.print(
            f"{runs[1].name} less {runs[0].name}: {difference.difference * 100:+.2f} mAP 50-95, 95 % interval "
            f"{difference.low * 100:+.2f} to {difference.high * 100:+.2f} ({difference.resamples} paired resamples)"
        )
        return
    classes = Table("class", *(Column(title, justify="right") for title in ("objects", "mAP 50-95", "mAP 50", "AR")))
    for one in runs[0].metrics.classes:
        if one.objects:
            classes.add_row(one.name, str(one.objects), *map(_percent, (one.map_50_95, one.map_50, one.ar)))
    OUT.print(classes)


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{value * 100:.2f}"


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


def _csv(measured: Metrics) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["class", "objects", "map_50_95", "map_50", "map_75", "ar"])
    for one in measured.classes:
        numbers = (one.map_50_95, one.map_50, one.map_75, one.ar)
        writer.writerow([one.name, one.objects, *("" if math.isnan(v) else f"{v:.6f}" for v in numbers)])
    return text.getvalue()
