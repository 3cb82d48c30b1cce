"""nas-client job: millions of pictures, on a Ray cluster or this machine."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from google.protobuf import text_format
from google.protobuf.json_format import MessageToDict
from nas_ensembles import contract
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table
from tritonclient.grpc import model_config_pb2

from ..errors import ModelUnavailable
from ..transport.address import Address
from .terminal import ERRORS, OUT, MaxDetections, Threshold, connect, exit_codes, print_error

if TYPE_CHECKING:
    from ..job.run import Progress, Summary


def job(
    source: Annotated[
        str,
        typer.Argument(help="A folder or prefix of pictures (s3://bucket/pictures/), or a list: .txt, .csv, .parquet."),
    ],
    output: Annotated[str, typer.Argument(help="Folder or prefix for the rows, that all nodes reach.")],
    url: Annotated[
        list[str] | None,
        typer.Option(help="Of a server, as localhost:8001; may be repeated: asked in turn.", show_default=False),
    ] = None,
    embedded: Annotated[
        bool, typer.Option("--embedded", help="Each node starts nas-serve for itself, instead of --url.")
    ] = False,
    model_repository: Annotated[str, typer.Option(help="Of --embedded, on each node.")] = "model_repository",
    model: Annotated[str | None, typer.Option(help="Needed when the server has several.", show_default=False)] = None,
    score_threshold: Threshold = None,
    iou_threshold: Threshold = None,
    max_detections: MaxDetections = None,
    format: Annotated[
        Literal["parquet", "coco"], typer.Option(help="coco: also one JSON of all rows, at the end.")
    ] = "parquet",
    workers: Annotated[
        int | None, typer.Option(min=1, help="Default: two a node; with --embedded one a node.", show_default=False)
    ] = None,
    in_flight: Annotated[int, typer.Option(min=1, help="Requests at a time, of each worker.")] = 8,
    batch: Annotated[int, typer.Option(min=1, help="Pictures between two checkpoints.")] = 256,
    timeout: Annotated[
        float, typer.Option(min=1, help="Seconds for a picture; restarts of the server are waited for.")
    ] = 300.0,
    address: Annotated[
        str | None,
        typer.Option(
            help="Of a Ray cluster; auto: the one that runs here. Default: RAY_ADDRESS, else one of its own.",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Detect in millions of pictures, with Ray.

    Writes Parquet, a row a picture. What ends in the middle goes on with the same command. A picture that cannot be
    read is a row with its error.

    Examples: nas-client job pictures/ out/; nas-client job s3://bucket/pictures/ s3://bucket/found/ --url triton:8001;
    nas-client job list.csv out/ --embedded --model yolo_nas_s_int8
    """
    if embedded and (url or not model):
        raise typer.BadParameter("wants --model and no --url", param_hint="--embedded")
    try:
        from ..job import coco, run
        from ..job.storage import Place
        from ..job.worker import Asked
    except ModuleNotFoundError as error:
        print_error(f"{error.name} is not installed: pip install 'nas-triton[ray]'")
        raise typer.Exit(1) from None
    thresholds = {
        tensor.name: value
        for tensor, value in zip(contract.THRESHOLDS, (score_threshold, iou_threshold, max_detections), strict=True)
        if value is not None
    }
    try:
        with exit_codes():
            identity, names, urls = _of_the_model(url, model, model_repository if embedded else None)
            asked = Asked(
                urls=urls,
                model=str(identity["model"]),
                model_repository=model_repository if embedded else None,
                in_flight=in_flight,
                timeout_s=timeout,
                thresholds=thresholds,
            )
            identity |= {"thresholds": thresholds}
            options = run.Options(source, output, asked, identity, workers, batch, address)
            with _progress() as show:
                summary = run.run(options, show)
            written = coco.write(Place.of(output), names) if format == "coco" else None
        if as_json:
            OUT.print_json(json.dumps({**asdict(summary), **({"coco": written} if written else {})}))
        else:
            _print(summary, written)
    except typer.Exit as ended:
        _end(ended.exit_code)
    _end(0)


@contextlib.contextmanager
def _progress() -> Iterator[Progress]:
    """A bar on a terminal."""
    rate = TextColumn("{task.fields[rate]}")
    columns = (TextColumn("job"), BarColumn(), MofNCompleteColumn(), rate, TimeRemainingColumn())
    with Bar(*columns, console=ERRORS, disable=not ERRORS.is_terminal, transient=True) as bar:
        task = bar.add_task("job", total=None, rate="")

        def show(done: int, total: int, failures: Mapping[str, int]) -> None:
            failed = sum(failures.values())
            speed = f"{bar.tasks[0].speed:.0f}/s" if bar.tasks[0].speed else ""
            bar.update(task, completed=done, total=total, rate=f"{speed} {failed} failed" if failed else speed)

        yield show


def _of_the_model(
    urls: list[str] | None, model: str | None, model_repository: str | None
) -> tuple[dict[str, Any], list[str], tuple[str, ...]]:
    """What decides about results, class names, and the servers' URLs, those of the environment among them."""
    if model_repository is not None:
        return *_of_a_repository(Path(model_repository), str(model)), ()
    identity: dict[str, Any] = {}
    names: list[str] = []
    asked: list[str] = []
    given: Sequence[str | None] = urls or [os.environ.get("NAS_URL")]
    for url in given:
        with connect(url, None, model, 30.0) as detector:
            found = detector.model
            one, names = _identity(found.name, found.version, found.parameters), list(detector.class_names)
        if identity and one != identity:
            raise ModelUnavailable(f"{url} serves another build of {found.name} than {asked[0]}; expected the same")
        identity = one
        asked.append(url or Address.parse(None, None).host_port)
    return identity, names, tuple(asked)


def _of_a_repository(repository: Path, model: str) -> tuple[dict[str, Any], list[str]]:
    """As of a server that loads it: the newest version."""
    try:
        text = (repository / model / "config.pbtxt").read_text(encoding="utf-8")
        newest = max((repository / model).glob("[0-9]*"), key=lambda folder: int(folder.name))
        config = text_format.Parse(text, model_config_pb2.ModelConfig())
        parameters = contract.read_parameters(MessageToDict(config, preserving_proto_field_name=True))
        names = parameters[contract.CLASS_NAMES]
    except (OSError, ValueError, KeyError, text_format.ParseError) as error:
        raise ModelUnavailable(
            f"{repository / model}: no model that nas-build has built: {error}; --embedded wants it on this machine, "
            "and on each node"
        ) from None
    return _identity(model, newest.name, parameters), names


def _identity(model: str, version: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Another build of the same name and version has other parameters: what it was built from is among them."""
    digest = hashlib.sha256(json.dumps(parameters, sort_keys=True).encode()).hexdigest()
    return {"model": model, "version": version, "build": digest[:16]}


def _end(code: int) -> None:
    """At once: Ray's own end takes long, and sometimes aborts; its processes here end with this one."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _print(summary: Summary, coco: str | None) -> None:
    rate = summary.new / summary.seconds if summary.seconds else 0.0
    table = Table("pictures", "new", "seconds", "pictures/s", "detections", "failed")
    failed = sum(summary.failures.values())
    numbers = (summary.pictures, summary.new, f"{summary.seconds:.1f}", f"{rate:.1f}", summary.detections, failed)
    table.add_row(*map(str, numbers))
    OUT.print(table)
    for kind, count in sorted(summary.failures.items(), key=lambda one: -one[1]):
        OUT.print(f"{count} {kind}")
    for written in (summary.output, coco):
        if written:
            OUT.print(f"Written: {written}", soft_wrap=True)
