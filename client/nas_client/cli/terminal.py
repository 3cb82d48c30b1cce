"""What the commands of nas-client share: consoles, options, exit codes."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Generator, Iterator
from typing import Annotated, TypeVar

import typer
from nas_ensembles import contract
from nas_ensembles.opencv import OpenCVMissingError
from nas_eval.errors import DatasetError, DownloadError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from ..detection.detector import RETRIES, Detector
from ..errors import ClientError
from ..transport import Protocol

# Names of files and classes are printed as they are, never read as markup.
ERRORS = Console(stderr=True, soft_wrap=True, highlight=False, markup=False, emoji=False)
# As wide as the terminal or COLUMNS say.
_WIDTH = None if sys.stdout.isatty() or os.environ.get("COLUMNS", "").isdecimal() else 120
OUT = Console(highlight=False, markup=False, emoji=False, width=_WIDTH)

Url = Annotated[
    str | None,
    typer.Option(
        help="Of the server, as localhost:8001; nas-client --help has more.",
        show_default=False,
    ),
]
ProtocolOption = Annotated[Protocol | None, typer.Option(help="Default: the URL's, else grpc.", show_default=False)]
_Item = TypeVar("_Item")
_SIGPIPE = 141  # what a shell gives for a program that it ended
# Flags of `val` that mend a data set.
_REMEDIES: dict[str | None, str] = {
    "images": " (--images DIR)",
    "split": " (--split)",
    "ignore_unknown": " Or leave the unknown ones out: --ignore-unknown-classes",
}
Threshold = Annotated[float | None, typer.Option(min=0, max=1, help="Default: the model's.", show_default=False)]
MaxDetections = Annotated[
    int | None, typer.Option(min=1, max=contract.DETECTIONS, help="Per picture.", show_default=False)
]
Timeout = Annotated[float, typer.Option(min=0.1, help="Seconds per request.")]
Retries = Annotated[
    int, typer.Option(min=0, help="Of a request that the server could not take, after pauses that grow.")
]


class OutputFailed(Exception):
    """Results cannot be written where they were to go; its cause is the OSError."""


@contextlib.contextmanager
def writing(path: object = None) -> Iterator[None]:
    """What fails in here is the output's fault, and no picture's: of a file, or of standard output."""
    try:
        yield
    except OSError as error:
        where = path or error.filename or "standard output"
        raise OutputFailed(f"cannot write to {where}: {error.strerror or error}") from error


def end_output(error: OutputFailed) -> int:
    """Nothing more is written to standard output, not even at exit; what was stays. The exit code.

    A reader who has seen enough (`head`, say) is no error worth a word.
    """
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if isinstance(error.__cause__, BrokenPipeError):
        return _SIGPIPE
    print_error(f"{error}. What was written before is kept.")
    return 1


@contextlib.contextmanager
def exit_codes() -> Iterator[None]:
    """Library errors become one message and exit code 1; Ctrl-C and SIGTERM end the requests and become 130."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except DatasetError as error:
        print_error(str(error) + _REMEDIES.get(error.remedy, ""))
        raise typer.Exit(1) from None
    except (ClientError, DownloadError) as error:
        print_error(str(error))
        raise typer.Exit(1) from None
    except OpenCVMissingError as error:
        print_error(str(error))
        raise typer.Exit(1) from None
    except ModuleNotFoundError as error:
        print_error(f"{error.name} is not installed: pip install 'nas-triton[val]'")
        raise typer.Exit(1) from None
    except OutputFailed as error:
        raise typer.Exit(end_output(error)) from None
    except KeyboardInterrupt:
        ERRORS.print("interrupted")
        raise typer.Exit(130) from None


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None else f"{task.speed:.1f}/s")


def progress(
    items: Generator[_Item, None, None], title: str, total: int | None, shown: bool = True
) -> Generator[_Item, None, None]:
    """Pass items on, with a bar and their rate on a terminal; closes where they come from, however it ends.

    Args:
        items: what is counted.
        title: beside the bar.
        total: None if nobody knows.
        shown: False for no bar.
    """
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeRemainingColumn(),
    )
    disable = not (shown and ERRORS.is_terminal and total != 1)
    # What is printed on standard output goes there, not to the console of the bar.
    with (
        contextlib.closing(items),
        Progress(*columns, console=ERRORS, disable=disable, transient=True, redirect_stdout=False) as bar,
    ):
        task = bar.add_task(title, total=total)
        for item in items:
            bar.advance(task)
            yield item


def print_error(message: str) -> None:
    """One line on standard error."""
    ERRORS.print(Text.assemble(("error: ", "red"), visible(message)))


def visible(text: str) -> str:
    """Control characters as escapes: names of files come from anywhere, and terminals obey them."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


def print_retried(detector: Detector) -> None:
    """How much was sent again, if anything."""
    if detector.transport.retried:
        ERRORS.print(f"{detector.transport.retried} requests were sent again: the server could not take them at first")


def connect(
    url: str | None,
    protocol: Protocol | None,
    model: str | None,
    timeout: float,
    retries: int = RETRIES,
    shared_memory: bool | None = False,
) -> Detector:
    """A detector at the URL, or at that of the environment."""
    given_by = "--url"
    if url is None:
        given_by = "NAS_HTTP_URL" if protocol == "http" else "NAS_URL"
        url = os.environ.get(given_by)
    try:
        return Detector(
            url, model=model, protocol=protocol, timeout_s=timeout, retries=retries, shared_memory=shared_memory
        )
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=given_by) from None
