"""nas-client val: measure served models on a data set."""

from __future__ import annotations

import csv
import io
import json
import math
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from nas_ensembles import contract
from nas_eval import metrics, paired_bootstrap
from nas_eval.dataset import Dataset
from nas_eval.downloadable import DOWNLOADABLE
from nas_eval.metrics import Metrics, Prediction
from nas_eval.open_dataset import open_dataset
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Column, Table

from ..detection.detector import RETRIES
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
    score_threshold: Annotated[float, typer.Option(min=0, max=1)] = 0.01,
    iou_threshold: Annotated[float, typer.Option(min=0, max=1)] = 0.7,
    max_detections: Annotated[int, typer.Option(min=1, max=contract.DETECTIONS)] = contract.DETECTIONS,
    ignore_unknown_classes: Annotated[
        bool,
        typer.Option("--ignore-unknown-classes", help="Leave out classes that the model lacks, instead of refusing."),
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
    asked = measure.Protocol(score_threshold, iou_threshold, max_detections)
    failed = retried = 0
    with exit_codes():
        dataset = _opened(data, images, split).limited(limit)
        results: list[tuple[str, Metrics, list[Prediction], float]] = []
        for name in compare or (model,):
            with connect(url, protocol, name, timeout, retries) as detector:
                categories = dataset.categories_of(detector.class_names, ignore_unknown_classes)
                kept = dataset.restricted(list(categories.values()))
                started = time.monotonic()
                answers = []
                answered = measure.predict(detector, kept, categories, asked, in_flight, resume)
                for answer in progress(answered, "val", len(kept.pictures)):
                    if answer.error is not None:
                        failed += 1
                        print_error(f"{answer.picture.path}: {answer.error}; counted as a picture without detections")
                    answers.append(answer)
                seconds = time.monotonic() - started
                print_retried(detector)
                retried += detector.transport.retried
                fresh = sum(not answer.resumed for answer in answers)
                predictions = [one for answer in answers for one in answer.predictions]
                measured = metrics.evaluate(kept, predictions)
                results.append((detector.model.name, measured, predictions, fresh / seconds if seconds else 0.0))
        if save_predictions:
            formats.write_atomic(save_predictions, json.dumps(results[0][2]).encode())
        if per_class:
            formats.write_atomic(per_class, _csv(results[0][1]).encode())
        if save_plots:
            unanswered = {answer.picture.id for answer in answers if answer.error is not None}
            plots.save(save_plots, kept, results[0][2], results[0][1], unanswered)
        difference = None
        if compare:
            difference = paired_bootstrap.compare(kept, results[0][2], results[1][2])
        report = {
            "data": dataset.name,
            "pictures": len(dataset.pictures),
            "failed": failed,
            "retried": retried,
            "protocol": asdict(asked),
            "models": [
                {"name": name, "pictures_per_second": rate, **_plain(measured)} for name, measured, _, rate in results
            ],
            **({"difference": _numbers(asdict(difference))} if difference else {}),
        }
        if as_json:
            OUT.print_json(json.dumps(report))
        else:
            _print(dataset, results, difference)
    if failed:
        ERRORS.print(f"{failed} of {len(dataset.pictures) * len(results)} requests failed")
        raise typer.Exit(1)


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


def _print(dataset: Dataset, results: list[tuple[str, Metrics, list[Prediction], float]], difference: Any) -> None:
    table = Table(Column(f"{dataset.name}, {len(dataset.pictures)} pictures", no_wrap=True))
    for name, *_ in results:
        table.add_column(name, justify="right")
    for title, field in _ROWS.items():
        table.add_row(title, *(_percent(getattr(measured, field)) for _, measured, _, _ in results))
    table.add_section()
    table.add_row("pictures/s", *(f"{rate:.1f}" for *_, rate in results))
    OUT.print(table)
    if difference:
        OUT.print(
            f"{results[1][0]} less {results[0][0]}: {difference.difference * 100:+.2f} mAP 50-95, 95 % interval "
            f"{difference.low * 100:+.2f} to {difference.high * 100:+.2f} ({difference.resamples} paired resamples)"
        )
        return
    classes = Table("class", *(Column(title, justify="right") for title in ("objects", "mAP 50-95", "mAP 50", "AR")))
    for one in results[0][1].classes:
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
