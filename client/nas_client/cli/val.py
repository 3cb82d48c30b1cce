"""nas-client val: measure served models on a data set."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Generator
from pathlib import Path
from typing import Annotated

import typer
from nas_ensembles import contract
from nas_eval import metrics, paired_bootstrap
from nas_eval.dataset import Dataset
from nas_eval.downloadable import DOWNLOADABLE
from nas_eval.errors import DatasetError
from nas_eval.open_dataset import open_dataset
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from ..detection.detector import RETRIES, Detector
from ..validation import measure
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
    writing,
)
from .val_results import Results, Run


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
        typer.Option(help="Two models or more, and how sure their difference is.", show_default=False),
    ] = None,
    more: Annotated[
        list[str] | None, typer.Argument(help="Models after the two of --compare.", show_default=False)
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
            help="Leave out classes that the model lacks (with --compare: any of them), instead of refusing.",
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
            help="Folder for curves and a confusion matrix (PNG, SVG, PDF), and sheets of truth beside prediction.",
            show_default=False,
        ),
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help="Write all of it there as one HTML file.", show_default=False)
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
    names = [*(compare or ()), *(more or ())]
    if compare and model:
        raise typer.BadParameter("takes no --model", param_hint="--compare")
    if more and not compare:
        raise typer.BadParameter(f"{' '.join(more)}: models are named by --model, or --compare", param_hint="MORE")
    if len(set(names)) < len(names):
        raise typer.BadParameter("the same model twice", param_hint="--compare")
    asked = contract.Thresholds(score_threshold, iou_threshold, max_detections)
    with exit_codes(), contextlib.ExitStack() as stack:
        whole = _opened(data, images, split).limited(limit)
        detectors = [stack.enter_context(connect(url, protocol, name, timeout, retries)) for name in names or [model]]
        categories = [whole.categories_of(one.class_names, ignore_unknown_classes) for one in detectors]
        in_all = set.intersection(*(set(one.values()) for one in categories))
        if not in_all:
            raise DatasetError(f"{whole.name}: none of its classes is known to all models.")
        dataset = whole.restricted([id for id in whole.class_names if id in in_all])
        shared = [{label: id for label, id in its.items() if id in in_all} for its in categories]
        runs = [
            _run(detector, dataset, measure.answers(detector, dataset, its, asked, in_flight, resume))
            for detector, its in zip(detectors, shared, strict=True)
        ]
        differences = [paired_bootstrap.compare(dataset, runs[0].predictions, run.predictions) for run in runs[1:]]
        results = Results(dataset, asked, runs, differences)
        if as_json:
            OUT.print_json(json.dumps(results.as_dict()))
        else:
            results.print()
        with writing():
            if save_predictions:
                results.save_predictions(save_predictions)
            if per_class:
                results.save_csv(per_class)
            results.save_plots(save_plots, report)
        for detector, its in zip(detectors, shared, strict=True):
            measure.forget(detector, dataset, its, asked)
    if results.failed:
        ERRORS.print(f"{results.failed} of {len(dataset.pictures) * len(runs)} requests failed")
        raise typer.Exit(1)


def _run(detector: Detector, dataset: Dataset, answered: Generator[measure.Answer, None, None]) -> Run:
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
    return Run(
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
