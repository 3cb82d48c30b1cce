"""What can go wrong with a data set or a download."""

from __future__ import annotations

from typing import Literal

Remedy = Literal["images", "split", "ignore_unknown"]


class DatasetError(Exception):
    """The data set cannot be read or does not fit the model; the message says who, expected, got, and the next step.

    Attributes:
        remedy: the parameter of `open_dataset` or `Dataset.categories_of` whose value mends it, if one does. The
            command lines name their flags by it.
    """

    def __init__(self, message: str, *, remedy: Remedy | None = None) -> None:
        super().__init__(message)
        self.remedy = remedy


class DownloadError(Exception):
    """A pinned file cannot be downloaded or is not the pinned one; says what each URL answered."""
