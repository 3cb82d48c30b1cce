"""Where nas-client detect puts what it found: files, tables, lines."""

from __future__ import annotations

import contextlib
import io
import sys
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO

from rich.console import Console
from rich.table import Column, Table

from ..output import annotation_tools, coco, formats
from ..output.formats import Found
from ..output.label_folders import FOLDERS, LabelFolder, Picture
from .terminal import OUT, visible, writing


class FileNames:
    """File names for what is saved; a name that was used gets a number."""

    def __init__(self) -> None:
        self._used: set[PurePosixPath] = set()

    def take(self, file_name: str, suffixes: Collection[str], default: str) -> str:
        path = Path(file_name)
        suffix = path.suffix if path.suffix.lower() in suffixes else default
        return formats.numbered(PurePosixPath(f"{path.stem}{suffix}"), self._used).name


# Formats that need all results.
_WHOLE: dict[str, Callable[[Sequence[Found], Sequence[str]], str]] = {
    "json": formats.to_json,
    "label-studio": annotation_tools.to_label_studio,
    "cvat": annotation_tools.to_cvat,
}
_COCO = {"coco": coco.to_coco, "coco-results": coco.to_coco_results}


class Results:
    """Writes what was found: by line or by file where the format allows, else when it is closed.

    Args:
        format: of the results.
        output: file, or folder for label files; None prints.
        class_names: by label.
        ids: for COCO, those of a file.
        with_scores: for YOLO labels.
        originals: see `sources.originals`.

    Attributes:
        quiet: nothing is printed on a terminal meanwhile, so that there is room for a bar.
    """

    def __init__(
        self,
        format: formats.Format,
        output: Path | None,
        class_names: tuple[str, ...],
        ids: coco.Ids | None = None,
        with_scores: bool = False,
        originals: Collection[str] = (),
    ) -> None:
        self._format, self._output, self._class_names, self._ids = format, output, class_names, ids
        self._found: list[Found] = []
        self._videos: dict[str, _VideoSummary] = {}
        self._stack = contextlib.ExitStack()
        self._file: IO[bytes] | None = None
        self._lines: Callable[[Found], str] | None = None
        self._folder: LabelFolder | None = None
        if output is not None and format in FOLDERS:
            self._folder = FOLDERS[format](output, class_names, with_scores, originals)
        else:
            if output is not None:  # whatever is wrong with it is found now
                with writing(output):
                    self._file = self._stack.enter_context(formats.atomic(output))
            self._start_lines(with_scores)
        self.quiet = output is not None or self._lines is None or not sys.stdout.isatty()

    def _start_lines(self, with_scores: bool) -> None:
        by_line: dict[str, tuple[str, Callable[[Found], str]]] = {
            "jsonl": ("", formats.jsonl_lines),
            "csv": (formats.CSV_HEADER, formats.csv_lines),
            "yolo": ("", lambda found: f"# {found.name}\n{formats.yolo_lines(found, with_scores)}"),
        }
        if self._format not in by_line:
            return
        header, self._lines = by_line[self._format]
        self._print(header)

    def add(self, found: Found, picture: Picture) -> None:
        """Take a result, in order.

        Args:
            found: in the picture.
            picture: for formats that keep it beside its labels.

        Raises:
            coco.UnknownToAnnotations: if the ids are of a file that has no such picture or class.
        """
        if self._ids is not None:
            self._ids.image(found)
            for name in found.detections.names:
                self._ids.category(name)
        if self._folder is not None:
            with writing(self._output):
                self._folder.add(found, picture)
        elif self._lines is not None:
            self._print(self._lines(found))
        elif self._format == "table" and found.frame is not None:
            self._videos.setdefault(found.source.name, _VideoSummary()).add(found)
        else:
            self._found.append(found)

    def close(self) -> None:
        """Write what is left."""
        with writing(self._output), self._stack:
            if self._folder is not None:
                self._folder.close()
            elif self._format == "table":
                self._print_tables()
            elif self._format in _COCO:
                self._print(_COCO[self._format](self._found, self._class_names, self._ids))
            elif self._format in _WHOLE:
                self._print(_WHOLE[self._format](self._found, self._class_names))
        if self._format == "label-studio" and self._output is not None and self._output.is_file():
            text = annotation_tools.label_studio_interface(self._class_names)
            with writing():
                formats.write_atomic(self._output.with_suffix(".interface.xml"), text.encode())

    def _print(self, text: str) -> None:
        with writing(self._output):
            if self._file is not None:
                self._file.write(text.encode())
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
class _VideoSummary:
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


def _video_table(videos: dict[str, _VideoSummary]) -> Table:
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
