"""What can go wrong with a data set or a download."""

from __future__ import annotations


class DatasetError(Exception):
    """The data set cannot be read or does not fit the model; the message says who, expected, got, and the next step."""


class DownloadError(Exception):
    """A pinned file cannot be downloaded or is not the pinned one; says what each URL answered."""
