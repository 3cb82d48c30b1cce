"""Entry point, as a program of its own."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

from nas_serve.supervision import container
from nas_serve.supervision.errors import Ended
from nas_serve.supervision.settings import VARIABLE, Settings
from nas_serve.supervision.status import say
from nas_serve.supervision.supervisor import Supervisor

_PR_SET_CHILD_SUBREAPER = 36


def _stop(*_: object) -> None:
    raise Ended


def main() -> int:
    """Until the end; the exit code."""
    given = os.environ.pop(VARIABLE, None)
    try:
        settings = Settings.from_json(given) if given else container.settings(sys.argv[1:])
    except ValueError as error:
        say("gave-up", str(error))
        return 1
    # Processes of models that lose Triton become ours, not those of whoever started us.
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)
    ours = signal.SIG_IGN if settings.lifeline else _stop  # with a lifeline only that decides
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, ours)
    return Supervisor(settings).run()


if __name__ == "__main__":
    sys.exit(main())
