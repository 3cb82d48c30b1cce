"""A job: a manifest of pictures, workers, and rows that are written once each."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import signal
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute
import pyarrow.dataset
import pyarrow.parquet

from ..errors import JobError
from . import manifest
from .storage import Place
from .worker import SCHEMA, Asked, Worker, cause

_DETECTIONS, _CHECKPOINT, _MANIFEST, _JOB = "detections", "checkpoint", "manifest", "job.json"
_BLOCKS = 20_000  # more of them cost more than they save
_SLOTS = 4
_STARTS = 3  # of Ray on this machine
_PENDING = ".pending.parquet"  # Ray's, of a block that is being written
_LOOK_S = 0.5
Progress = Callable[[int, int, Mapping[str, int]], None]


@dataclass(frozen=True)
class Options:
    """What a job is.

    Attributes:
        source: of `manifest.read`.
        output: folder or prefix, that all nodes can reach.
        asked: of each worker.
        identity: of the model and its thresholds: results of another one are not mixed with these.
        workers: how many; None: one a node with nas-serve, else two a node.
        batch: pictures between two checkpoints.
        address: of the Ray cluster; None: RAY_ADDRESS, else one on this machine.
    """

    source: str
    output: str
    asked: Asked
    identity: Mapping[str, Any]
    workers: int | None = None
    batch: int = 256
    address: str | None = None


@dataclass(frozen=True)
class Summary:
    """Of a job that is done.

    Attributes:
        pictures: rows of the output.
        new: of them, those of this run.
        seconds: that it took.
        detections: in all rows.
        failures: rows with an error, by its kind.
        output: where the rows are.
    """

    pictures: int
    new: int
    seconds: float
    detections: int
    failures: Mapping[str, int]
    output: str


def run(options: Options, progress: Progress = lambda *_: None) -> Summary:
    """Detect in all pictures of the source that the output has no row of.

    Args:
        options: what to do.
        progress: is told of pictures done, of all of them, and of failures by kind, of this run.

    Raises:
        JobError: the source has no picture, the output is of another job, or a worker failed for good; the same job
            goes on where it stopped.
    """
    output = Place.of(options.output)
    pictures = manifest.read(options.source)
    _claim(output, options.identity)
    _remove_parts(output)
    _write_manifest(output / _MANIFEST, pictures)
    before = _rows(output)
    began = time.monotonic()
    if not _all_done(output, pictures):  # else there is no need of Ray, which takes its time to start
        _detect(options, output, len(pictures), before, progress)
    seconds = time.monotonic() - began
    _remove_parts(output)
    return _summary(output, before, seconds)


def _detect(options: Options, output: Place, total: int, before: int, progress: Progress) -> None:
    ray = _ray()
    _connect(options.address)
    counted = ray.remote(num_cpus=0)(_Counted).remote()
    writing = _in_background(lambda: _write(options, output, total, counted))
    while not wait([writing], _LOOK_S).done:
        done = ray.get(counted.get.remote())
        progress(min(total, before + sum(done.values())), total, {kind: n for kind, n in done.items() if kind})
    try:
        writing.result()
    except ray.exceptions.RayError as error:
        reason = str(error).strip().splitlines()[-1]
        raise JobError(f"a worker failed: {reason}\nThe same command goes on where this one stopped.") from error


def _ray() -> Any:
    """The module, untyped: its stubs are of another mind about its decorators."""
    # No connecting by itself: after an interruption, that would be to whichever cluster runs on this machine.
    settings = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_BACKEND_LOG_LEVEL": "fatal", "RAY_ENABLE_AUTO_CONNECT": "0"}
    for name, value in settings.items():
        os.environ.setdefault(name, value)
    import ray
    import ray.data

    return ray


def _connect(address: str | None) -> None:
    """To Ray's cluster, with no word of its own; one that is started here ends with this process."""
    ended_by = signal.getsignal(signal.SIGTERM)
    ray = _ray()
    address = address or os.environ.get("RAY_ADDRESS")
    # Of one on this machine: readers, writers and the filter of what is done want a slot each, and need no core each.
    here: dict[str, Any] = {} if address else {"num_cpus": max(_SLOTS, os.cpu_count() or 1), "include_dashboard": False}
    warnings.simplefilter("ignore")
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    for attempts_left in reversed(range(_STARTS if here else 1)):
        try:
            ray.init(
                address=address or "local", ignore_reinit_error=True, log_to_driver=False, logging_level="CRITICAL",
                **here,
            )  # fmt: skip
            break
        except Exception as error:  # of a plain one: a busy machine takes longer to start Ray than Ray waits
            if here:
                _kill_children()
            if not attempts_left:
                raise JobError(f"no Ray cluster at {address or 'this machine'}: {error}") from None
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, ended_by)  # Ray has put its own there


def _kill_children() -> None:
    """What Ray leaves of a start that failed; this process has no others."""
    import psutil  # type: ignore[import-untyped]  # which Ray brings along

    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            child.kill()


def _write(options: Options, output: Place, total: int, counted: Any) -> None:
    """Read the manifest, leave out what is done, ask, and write; each block is noted as done when it is written."""
    from ray.data.checkpoint import CheckpointConfig

    ray = _ray()
    nodes = max(1, sum(node["Alive"] and node["Resources"].get("CPU", 0) > 0 for node in ray.nodes()))
    workers = options.workers or (2 * nodes if options.asked.urls else nodes)
    checkpoint = CheckpointConfig(
        "id",
        str(output / _CHECKPOINT),
        override_filesystem=output.arrow,
        delete_checkpoint_on_success=False,
    )
    checkpoint.checkpoint_actor_pool_max_size = 2
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.use_datasource_v2 = False  # which makes one block of a small file, and so one checkpoint
    context.checkpoint_config = checkpoint
    blocks = max(1, min(_BLOCKS, math.ceil(total / options.batch)))
    pictures = ray.data.read_parquet(
        (output / _MANIFEST).path, filesystem=output.arrow, shuffle=None, override_num_blocks=blocks
    )
    rows = pictures.map_batches(
        Worker,
        fn_constructor_kwargs={"asked": options.asked, "counted": counted},
        batch_size=options.batch,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=min(workers, blocks)),
        num_cpus=0,
    )
    rows.write_parquet((output / _DETECTIONS).path, filesystem=output.arrow, mode="append")


def _in_background(work: Callable[[], None]) -> Future[None]:
    """In a thread that keeps nobody from ending, whatever it waits for."""
    future: Future[None] = Future()

    def run_it() -> None:
        try:
            work()
            future.set_result(None)
        except BaseException as error:  # for whoever waits
            future.set_exception(error)

    threading.Thread(target=run_it, daemon=True).start()
    return future


class _Counted:
    """Of a Ray actor: pictures done, by the kind of their error."""

    def __init__(self) -> None:
        self._done: Counter[str] = Counter()

    def add(self, done: Mapping[str, int]) -> None:
        self._done.update(done)

    def get(self) -> dict[str, int]:
        return dict(self._done)


def _claim(output: Place, identity: Mapping[str, Any]) -> None:
    """The output is of this job, or nobody's yet."""
    file = output / _JOB
    filesystem = output.filesystem
    try:
        if filesystem.exists(file.path):
            known = json.loads(file.read())
            differ = [name for name in sorted({*known, *identity}) if known.get(name) != identity.get(name)]
            if differ:
                name = differ[0]
                raise JobError(
                    f"{output} has results of another {name}: {known.get(name)}, and this job's is "
                    f"{identity.get(name)}; name another output"
                )
            return
        if filesystem.exists((output / _DETECTIONS).path):
            raise JobError(f"{output} has detections, and no {_JOB} that tells whose; name another output")
        filesystem.makedirs(output.path, exist_ok=True)
        with file.written() as opened:
            opened.write(json.dumps(dict(identity), indent=2, sort_keys=True).encode())
    except OSError as error:
        raise JobError(f"{output}: cannot be written: {error}") from None


def _write_manifest(folder: Place, pictures: pa.Table) -> None:
    """The pictures of this run, in place of those of an earlier one."""
    try:
        folder.filesystem.makedirs(folder.path, exist_ok=True)
        with (folder / "pictures.parquet").written() as file:
            pyarrow.parquet.write_table(pictures, file)
    except OSError as error:
        raise JobError(f"{folder}: cannot be written: {error}") from None


def _remove_parts(output: Place) -> None:
    for name in (_MANIFEST, _DETECTIONS, _CHECKPOINT):
        (output / name).remove_parts()


def dataset(output: Place) -> Any:
    """All rows, as a dataset of pyarrow; None if there are none."""
    return _parquet(output, _DETECTIONS, SCHEMA)


def _parquet(output: Place, name: str, schema: pa.Schema) -> Any:
    folder = output / name
    output.filesystem.invalidate_cache()
    if not output.filesystem.exists(folder.path) or not output.filesystem.find(folder.path):
        return None
    return pyarrow.dataset.dataset(folder.path, schema, format="parquet", filesystem=output.arrow)


def _all_done(output: Place, pictures: pa.Table) -> bool:
    """Do the checkpoints have every picture, and is none of them of rows that may not have been written?"""
    folder = output / _CHECKPOINT
    if any(name.endswith(_PENDING) for name in folder.filesystem.find(folder.path)):
        return False
    done = _parquet(output, _CHECKPOINT, pa.schema([SCHEMA.field("id")]))
    if done is None or done.count_rows() < len(pictures):
        return False
    return bool(pa.compute.all(pa.compute.is_in(pictures["id"], done.to_table()["id"])).as_py())


def _rows(output: Place) -> int:
    found = dataset(output)
    return found.count_rows() if found is not None else 0


def _summary(output: Place, before: int, seconds: float) -> Summary:
    failures: Counter[str] = Counter()
    pictures = detections = 0
    found = dataset(output)
    for batch in found.to_batches(columns=["error", "scores"]) if found is not None else ():
        pictures += len(batch)
        failures.update(cause(error) for error in batch["error"].to_pylist() if error is not None)
        detections += pa.compute.sum(pa.compute.list_value_length(batch["scores"])).as_py() or 0
    return Summary(pictures, pictures - before, seconds, detections, dict(failures), str(output / _DETECTIONS))
