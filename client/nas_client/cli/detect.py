"""nas-client detect: pictures, videos, streams and cameras to boxes."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from itertools import groupby, islice
from pathlib import Path
from typing import IO, Annotated, Any

import cv2
import typer
from nas_ensembles import contract, images, memory
from nas_eval.picture_size import size_wh
from rich.console import Console
from rich.table import Column, Table

from ..detection.detector import RETRIES, Detector, Outcome
from ..errors import ClientError
from ..media import sources, video
from ..media.sources import Source
from ..media.video import Frame, Video, VideoFile
from ..output import formats
from ..output.draw import annotate
from ..output.formats import Found
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
    visible,
)


def detect(
    source: Annotated[
        list[str],
        typer.Argument(
            help="Pictures and videos: files, folders, globs, URLs, - for a picture on standard input; "
            "streams (rtsp://...); cameras (0, /dev/video0)."
        ),
    ],
    url: Url = None,
    protocol: ProtocolOption = None,
    model: Annotated[str | None, typer.Option(help="Needed when the server has several.", show_default=False)] = None,
    score_threshold: Annotated[
        float | None, typer.Option(min=0, max=1, help="Default: the model's.", show_default=False)
    ] = None,
    iou_threshold: Annotated[
        float | None, typer.Option(min=0, max=1, help="Default: the model's.", show_default=False)
    ] = None,
    max_detections: Annotated[
        int | None, typer.Option(min=1, max=contract.DETECTIONS, help="Per picture.", show_default=False)
    ] = None,
    format: Annotated[formats.Format, typer.Option(help="What to print.")] = "table",
    output: Annotated[
        Path | None,
        typer.Option(help="Write there instead of printing; for yolo a folder of label files.", show_default=False),
    ] = None,
    save: Annotated[
        Path | None, typer.Option(help="Folder for annotated pictures and videos.", show_default=False)
    ] = None,
    max_frames: Annotated[
        int | None, typer.Option(min=1, help="Of each video, stream or camera.", show_default=False)
    ] = None,
    shared_memory: Annotated[
        bool | None,
        typer.Option(help="For frames. Default: if the server is on this machine and takes it.", show_default=False),
    ] = None,
    in_flight: Annotated[int, typer.Option(min=1, max=64, help="Requests at a time.")] = 4,
    timeout: Timeout = 60.0,
    retries: Retries = RETRIES,
) -> None:
    """Detect objects in pictures, videos, streams and cameras.

    Examples: nas-client detect bus.jpg; nas-client detect pictures/ --save out/ --format jsonl;
    cat bus.jpg | nas-client detect -; nas-client detect clip.mp4 --save out/; nas-client detect rtsp://camera/stream
    """
    _quiet_opencv()
    listed = sources.expand(source, images.SUFFIXES | video.SUFFIXES)
    failed = 0
    asked: dict[str, Any] = {
        "in_flight": in_flight,
        "score_threshold": score_threshold,
        "iou_threshold": iou_threshold,
        "max_detections": max_detections,
    }
    names = _Names()
    with exit_codes(), connect(url, protocol, model, timeout, retries, shared_memory) as detector:
        class_names = detector.class_names  # and one clear error if there is no such server or model
        with contextlib.closing(_Results(format, output, class_names)) as results:
            for moving, some in groupby(listed, lambda one: video.is_video(one.name)):
                if not moving:
                    failed += _pictures(list(some), detector, asked, save, names, results)
                    continue
                for one in some:
                    target = None if save is None else save / names.take(one.file_name, {".mp4"}, ".mp4")
                    try:
                        if target is not None:
                            _not_the_source(target, one)
                        _video(one, detector, asked, target, max_frames, results)
                    except (ClientError, OSError, ValueError) as error:
                        failed += 1
                        print_error(f"{one.name}: {error}")
        print_retried(detector)
    if failed:
        ERRORS.print(f"{failed} of {len(listed)} sources failed")
        raise typer.Exit(1)


def _quiet_opencv() -> None:
    """Why a video cannot be opened or went silent is said by our messages."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    cv2.setLogLevel(0)
    cv2.setNumThreads(1)  # decoding, requests and drawing run side by side


def _pictures(
    some: list[Source],
    detector: Detector,
    asked: dict[str, Any],
    save: Path | None,
    names: _Names,
    results: _Results,
) -> int:
    """Pictures to results; how many failed."""
    failed = 0
    outcomes = detector.detect_many(some, Source.read, **asked)
    for outcome in progress(outcomes, "detect", len(some), results.quiet):
        try:
            results.add(_finish(outcome, save, names))
        except (ClientError, OSError, ValueError) as error:
            failed += 1
            print_error(f"{outcome.item.name}: {error}")
    return failed


def _finish(outcome: Outcome[Source], save: Path | None, names: _Names) -> Found:
    """The result of a picture that was answered, drawn and saved if asked for; raises its error otherwise."""
    if outcome.detections is None:
        raise outcome.error or ClientError("no answer")
    assert isinstance(outcome.picture, bytes)
    if save is not None:
        target = _not_the_source(save / names.take(outcome.item.file_name, images.SUFFIXES, ".jpg"), outcome.item)
        drawn = annotate(images.decode(outcome.picture), outcome.detections)
        formats.write_atomic(target, cv2.imencode(target.suffix, drawn[..., ::-1])[1].tobytes())
    return Found(outcome.item, size_wh(outcome.picture), outcome.detections)


def _video(
    source: Source,
    detector: Detector,
    asked: dict[str, Any],
    target: Path | None,
    max_frames: int | None,
    results: _Results,
) -> None:
    """Frames to results, in order: decoding, requests and drawing overlap. What was done is kept, also on Ctrl-C."""
    memory.keep_freed_memory()
    with contextlib.ExitStack() as stack:
        opened = stack.enter_context(Video(source.name))
        written = None if target is None else stack.enter_context(VideoFile(target, opened.fps))
        expected = min((n for n in (opened.total, max_frames) if n is not None), default=None)
        outcomes = detector.detect_many(islice(opened, max_frames), _image, **asked)
        done = 0
        watch = stack.enter_context(contextlib.closing(progress(outcomes, source.name, expected, results.quiet)))
        for outcome in watch:
            if outcome.detections is None:
                raise outcome.error or ClientError("no answer")
            frame = outcome.item
            if written is not None:
                written.write(annotate(frame.image, outcome.detections), frame.index)
            height, width = frame.image.shape[:2]
            results.add(Found(source, (width, height), outcome.detections, frame.index, frame.time_s))
            done += 1
    if not done:
        raise OSError("no frame of it can be decoded")
    seconds = opened.seconds_taken
    parts = [f"{done} frames, {done / seconds:.1f} per second"]
    parts += [f"{opened.dropped} dropped to stay live"] if opened.dropped else []
    parts += [f"{expected} were expected"] if expected is not None and done < expected else []
    ERRORS.print(visible(f"{source.name}: {', '.join(parts)}"))


def _not_the_source(target: Path, source: Source) -> Path:
    """The target, unless it is the very file that was read."""
    if target.exists() and Path(source.name).exists() and target.samefile(source.name):
        raise OSError(f"not saved: {target} is the original. Give another folder with --save.")
    return target


def _image(frame: Frame) -> Any:
    return frame.image


class _Names:
    """File names for what is saved; a name that was used gets a number."""

    def __init__(self) -> None:
        self._used: set[str] = set()

    def take(self, file_name: str, suffixes: Collection[str], default: str) -> str:
        path = Path(file_name)
        suffix = path.suffix if path.suffix.lower() in suffixes else default
        name, number = f"{path.stem}{suffix}", 2
        while name in self._used:
            name, number = f"{path.stem}_{number}{suffix}", number + 1
        self._used.add(name)
        return name


class _Results:
    """Writes what was found: line by line where the format allows, else when it is closed.

    Attributes:
        quiet: nothing is printed on a terminal meanwhile, so that there is room for a bar.
    """

    def __init__(self, format: formats.Format, output: Path | None, class_names: tuple[str, ...]) -> None:
        self._format, self._output, self._class_names = format, output, class_names
        self._found: list[Found] = []
        self._videos: dict[str, _Summary] = {}
        self._names = _Names()
        self._stack = contextlib.ExitStack()
        self._file: IO[bytes] | None = None
        self._one_file_each = format == "yolo" and output is not None
        self._by_line = format in formats.BY_LINE and not self._one_file_each
        self.quiet = output is not None or not self._by_line or not sys.stdout.isatty()
        if self._by_line:
            if output is not None:
                self._file = self._stack.enter_context(formats.atomic(output))
            self._print(formats.BY_LINE[format][0])

    def add(self, found: Found) -> None:
        """Take a result, in order."""
        if self._one_file_each:
            stem = Path(found.source.file_name).stem + ("" if found.frame is None else f"_{found.frame:06d}")
            assert self._output is not None
            target = self._output / self._names.take(f"{stem}.txt", {".txt"}, ".txt")
            formats.write_atomic(target, formats.yolo_lines(found).encode())
        elif self._by_line:
            self._print(formats.BY_LINE[self._format][1](found))
        elif self._format == "table" and found.frame is not None:
            self._videos.setdefault(found.source.name, _Summary()).add(found)
        else:
            self._found.append(found)

    def close(self) -> None:
        """Write what is left."""
        with self._stack:
            if self._format in formats.WHOLE:
                self._print(formats.WHOLE[self._format](self._found, self._class_names))
            elif self._format == "table":
                self._print_tables()

    def _print(self, text: str) -> None:
        if self._file is not None:
            self._file.write(text.encode())
        elif self._output is not None:
            formats.write_atomic(self._output, text.encode())
        else:
            sys.stdout.write(text)
            sys.stdout.flush()

    def _print_tables(self) -> None:
        tables = [_table(self._found)] if self._found else []
        tables += [_video_table(self._videos)] if self._videos else []
        if self._output is None:
            for table in tables:
                OUT.print(table)
            return
        console = Console(file=io.StringIO(), width=120, markup=False, emoji=False)
        for table in tables:
            console.print(table)
        self._print(console.file.getvalue())  # type: ignore[attr-defined]


@dataclass
class _Summary:
    """What was seen in a video."""

    frames: int = 0
    seen_in: Counter[str] = field(default_factory=Counter)
    most: Counter[str] = field(default_factory=Counter)
    best: dict[str, float] = field(default_factory=dict)

    def add(self, found: Found) -> None:
        self.frames += 1
        for name, count in Counter(found.detections.names).items():
            self.seen_in[name] += 1
            self.most[name] = max(self.most[name], count)
        for name, score in zip(found.detections.names, found.detections.scores.tolist(), strict=True):
            self.best[name] = max(self.best.get(name, 0.0), score)


def _table(found: list[Found]) -> Table:
    table = Table(Column("picture", overflow="fold"), "object", "score", "left", "top", "right", "bottom")
    for column in table.columns[2:]:
        column.justify = "right"
    for one in found:
        plain = one.detections.to_dict()
        picture = visible(one.name)
        for box, score, name in zip(plain["boxes_xyxy"], plain["scores"], plain["names"], strict=True):
            table.add_row(picture, name, f"{score:.2f}", *(f"{value:.0f}" for value in box))
            picture = ""
        if not len(one.detections):
            table.add_row(picture, "nothing found", *[""] * 5, style="dim")
        table.add_section()
    return table


def _video_table(videos: dict[str, _Summary]) -> Table:
    table = Table(Column("video", overflow="fold"), "object", "frames", "at once", "best score")
    for column in table.columns[2:]:
        column.justify = "right"
    for name, summary in videos.items():
        shown = visible(name)
        for seen, frames in summary.seen_in.most_common():
            counted = f"{frames} of {summary.frames}"
            table.add_row(shown, seen, counted, str(summary.most[seen]), f"{summary.best[seen]:.2f}")
            shown = ""
        if not summary.seen_in:
            table.add_row(shown, "nothing found", f"0 of {summary.frames}", style="dim")
        table.add_section()
    return table
