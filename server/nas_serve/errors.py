"""What users of this package see of failures."""


class ServerError(RuntimeError):
    """The server cannot start or has stopped; the message gives the cause from its log and the next step."""
