"""nas-client detect: pictures, videos, streams and cameras to boxes."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Collection
from difflib import get_close_matches
from itertools import groupby, islice
from pathlib import Path
from typing import Annotated, TypedDict

import numpy as np
import typer
from nas_ensembles import images, memory, opencv
from nas_ensembles.opencv import cv2
from nas_eval.picture_size import size_wh
from numpy.typing import NDArray

from ..detection.detector import RETRIES, Detector
from ..detection.outcomes import Failed, Outcome
from ..errors import ClientError
from ..media import sources, video
from ..media.sources import Source
from ..media.video import Frame, Video
from ..media.video_file import VideoFile
from ..output import coco, formats
from ..output.draw import annotate
from ..output.formats import Found
from ..output.label_folders import FOLDERS
from .detect_results import FileNames, Results
from .terminal import (
    ERRORS,
    MaxDetections,
    ProtocolOption,
    Retries,
    Threshold,
    Timeout,
    Url,
    connect,
    exit_codes,
    print_error,
    print_retried,
    progress,
    visible,
)

_OF_PICTURES = frozenset({"voc", "cvat", "label-studio"})  # formats


class _RequestOptions(TypedDict):
    """Of every request, as `Detector.detect_many` takes them."""

    in_flight: int
    score_threshold: float | None
    iou_threshold: float | None
    max_detections: int | None


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
    score_threshold: Threshold = None,
    iou_threshold: Threshold = None,
    max_detections: MaxDetections = None,
    classes: Annotated[
        str | None,
        typer.Option(help="Only these: names with commas between, as person,bus.", show_default=False),
    ] = None,
    format: Annotated[formats.Format, typer.Option(help="What to print.")] = "table",
    output: Annotated[
        Path | None,
        typer.Option(help="Write there instead of printing; for yolo and voc a folder; - prints.", show_default=False),
    ] = None,
    like: Annotated[
        Path | None,
        typer.Option(
            help="For coco and coco-results: take ids of pictures and classes from this annotation file.",
            show_default=False,
        ),
    ] = None,
    with_scores: Annotated[
        bool, typer.Option("--with-scores", help="For yolo: the score as a sixth column, which trainers refuse.")
    ] = False,
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
    listed = sources.expand(source, images.SUFFIXES | video.SUFFIXES, _print_left_out)
    failed = 0
    options = _RequestOptions(
        in_flight=in_flight,
        score_threshold=score_threshold,
        iou_threshold=iou_threshold,
        max_detections=max_detections,
    )
    names = FileNames()
    output = None if output == Path("-") else output
    ids = _format_options(format, output, like, with_scores)
    originals = sources.originals(listed)
    with exit_codes(), connect(url, protocol, model, timeout, retries, shared_memory) as detector:
        class_names = detector.class_names  # and one clear error if there is no such server or model
        wanted = _chosen(classes, class_names)
        with contextlib.closing(Results(format, output, class_names, ids, with_scores, originals)) as results:
            for moving, some in groupby(listed, lambda one: video.is_video(one.name)):
                if not moving:
                    failed += _pictures(list(some), detector, options, wanted, save, names, originals, results)
                    continue
                for one in some:
                    saved_as = None if save is None else save / names.take(one.file_name, {".mp4"}, ".mp4")
                    try:
                        one.check_name()
                        if format in _OF_PICTURES:
                            raise ValueError(f"{format} names pictures, and frames are none; yolo writes them")
                        if saved_as is not None:
                            _no_original(saved_as, originals)
                        _video(one, detector, options, wanted, saved_as, max_frames, results)
                    except (ClientError, OSError, ValueError) as error:
                        failed += 1
                        print_error(f"{one.name}: {error}")
        print_retried(detector)
    if failed:
        ERRORS.print(f"{failed} of {len(listed)} sources failed")
        raise typer.Exit(1)


def _chosen(classes: str | None, class_names: tuple[str, ...]) -> Collection[str]:
    """Names to keep; all if none were chosen."""
    if classes is None:
        return class_names
    if classes in class_names:  # a comma may be part of a name
        return (classes,)
    chosen = [name.strip() for name in classes.split(",") if name.strip()]
    unknown = [name for name in chosen if name not in class_names]
    if unknown or not chosen:
        close = {name: get_close_matches(name, class_names, 1) for name in unknown}
        hints = [f"{name} (did you mean {found[0]}?)" if found else name for name, found in close.items()]
        known = f"{', '.join(class_names[:8])}{', ...' if len(class_names) > 8 else ''}"
        raise typer.BadParameter(
            f"the model has no class {', '.join(hints) or 'without a name'}; it has {len(class_names)}: {known}",
            param_hint="--classes",
        )
    return frozenset(chosen)


def _format_options(
    format: formats.Format, output: Path | None, like: Path | None, with_scores: bool
) -> coco.Ids | None:
    """Refuses what does not fit together, before anything is detected; the ids of the annotation file."""
    if format == "voc" and output is None:
        raise typer.BadParameter("voc is a file a picture: give their folder with --output", param_hint="--format")
    if format in FOLDERS and output is not None and output.is_file():
        raise typer.BadParameter(f"{output} is a file; {format} wants a folder", param_hint="--output")
    if format not in FOLDERS and output is not None and output.is_dir():
        raise typer.BadParameter(f"{output} is a folder; {format} is one file", param_hint="--output")
    if with_scores and format != "yolo":
        raise typer.BadParameter("only yolo has a column to spare", param_hint="--with-scores")
    if like is None:
        return None
    if not format.startswith("coco"):
        raise typer.BadParameter("only coco and coco-results have ids", param_hint="--like")
    try:
        return coco.Ids.read(like)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--like") from None


def _print_left_out(folder: str, suffixes: Counter[str]) -> None:
    kinds = ", ".join(f"{count} {suffix}" for suffix, count in sorted(suffixes.items()))
    ERRORS.print(visible(f"{folder}: left out {kinds}, which the server does not read"))


def _quiet_opencv() -> None:
    """Why a video cannot be opened or went silent is said by our messages."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    if not opencv.available:  # pictures that are not drawn on need none
        return
    opencv.silence()
    cv2.setNumThreads(1)  # decoding, requests and drawing run side by side


def _pictures(
    some: list[Source],
    detector: Detector,
    options: _RequestOptions,
    wanted: Collection[str],
    save: Path | None,
    names: FileNames,
    originals: Collection[str],
    results: Results,
) -> int:
    """Pictures to results; how many failed."""
    failed = 0
    outcomes = detector.detect_many(some, Source.read, **options)
    for outcome in progress(outcomes, "detect", len(some), results.quiet):
        try:
            found, picture = _finish(outcome, wanted, save, names, originals)
            results.add(found, picture)
        except (ClientError, OSError, ValueError) as error:
            failed += 1
            print_error(f"{outcome.item.name}: {error}")
    return failed


def _finish(
    outcome: Outcome[Source],
    wanted: Collection[str],
    save: Path | None,
    names: FileNames,
    originals: Collection[str],
) -> tuple[Found, bytes]:
    """Result and bytes of a picture that was answered, drawn and saved if asked for; raises its error otherwise."""
    if isinstance(outcome, Failed):
        raise outcome.error
    assert isinstance(outcome.image, bytes)
    detections = outcome.detections.only(wanted)
    if save is not None:
        path = _no_original(save / names.take(outcome.item.file_name, images.SUFFIXES, ".jpg"), originals)
        drawn = annotate(images.decode(outcome.image), detections)
        formats.write_atomic(path, cv2.imencode(path.suffix, drawn[..., ::-1])[1].tobytes())
    return Found(outcome.item, size_wh(outcome.image), detections), outcome.image


def _video(
    source: Source,
    detector: Detector,
    options: _RequestOptions,
    wanted: Collection[str],
    saved_as: Path | None,
    max_frames: int | None,
    results: Results,
) -> None:
    """Frames to results, in order: decoding, requests and drawing overlap. What was done is kept, also on Ctrl-C."""
    memory.keep_freed_memory()
    with contextlib.ExitStack() as stack:
        opened = stack.enter_context(Video(source.name))
        written = None if saved_as is None else stack.enter_context(VideoFile(saved_as, opened.fps))
        expected = min((n for n in (opened.total, max_frames) if n is not None), default=None)
        outcomes = detector.detect_many(islice(opened, max_frames), _image, **options)
        done = 0
        watch = stack.enter_context(contextlib.closing(progress(outcomes, source.name, expected, results.quiet)))
        for outcome in watch:
            if isinstance(outcome, Failed):
                raise outcome.error
            frame = outcome.item
            detections = outcome.detections.only(wanted)
            if written is not None:
                written.write(annotate(frame.image, detections), frame.index)
            height, width = frame.image.shape[:2]
            results.add(Found(source, (width, height), detections, frame.index, frame.time_s), frame.image)
            done += 1
    if not done:
        raise OSError("no frame of it can be decoded")
    seconds = opened.seconds_taken
    parts = [f"{done} frames, {done / seconds:.1f} per second"]
    parts += [f"{opened.dropped} dropped to stay live"] if opened.dropped else []
    parts += [f"{expected} were expected"] if expected is not None and done < expected else []
    ERRORS.print(visible(f"{source.name}: {', '.join(parts)}"))


def _no_original(path: Path, originals: Collection[str]) -> Path:
    """The path to save to, unless it is a file that is read."""
    if os.path.realpath(path) in originals:
        raise OSError(f"not saved: {path} is an original. Give another folder with --save.")
    return path


def _image(frame: Frame) -> NDArray[np.uint8]:
    return frame.image
