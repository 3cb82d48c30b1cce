"""What ends a server, or the supervisor."""


class Ended(BaseException):
    """Standard input was closed, or a signal came."""


class Changed(Exception):
    """The model repository has other models than are served."""


class Failed(Exception):
    """The server does not run, or does not answer; the message says what was seen."""


class Hopeless(Failed):
    """Starting it again would change nothing."""
