"""What the commands of nas-build share: consoles and exit codes."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator

import typer
from nas_eval.errors import DatasetError
from rich.console import Console
from rich.text import Text

from ..errors import BuildError
from .flags import with_flags

# Names and paths are printed as they are, never read as markup.
ERRORS = Console(stderr=True, soft_wrap=True, highlight=False, markup=False, emoji=False)
OUT = Console(highlight=False, markup=False, emoji=False, width=None if sys.stdout.isatty() else 120)

# What mends a data set; its split and its classes are no option of a build.
_OPTIONS: dict[str | None, tuple[str, ...]] = {"images": ("int8.validation_images=DIR",)}


@contextlib.contextmanager
def exit_codes() -> Iterator[None]:
    """Library errors become one message and exit code 1; Ctrl-C and SIGTERM clean up and become 130."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except (BuildError, DatasetError) as error:
        options = error.options if isinstance(error, BuildError) else _OPTIONS.get(error.remedy, ())
        ERRORS.print(Text.assemble(("error: ", "red"), with_flags(str(error), options)))
        raise typer.Exit(1) from None
    except ModuleNotFoundError as error:
        message = f"{error.name} is not installed; nas-build needs it: pip install 'nas-triton[build]'"
        ERRORS.print(Text.assemble(("error: ", "red"), message))
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        ERRORS.print("interrupted; nothing half-written was installed")
        raise typer.Exit(130) from None
