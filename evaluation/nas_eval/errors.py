"""What can go wrong with a data set."""

from __future__ import annotations


class DatasetError(Exception):
    """The data set cannot be read or does not fit the model; the message says who, expected, got, and the next step."""
