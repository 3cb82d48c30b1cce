"""Which nas-triton this is. All packages are one distribution."""

from importlib import metadata

VERSION = metadata.version("nas-triton")


def print_version(asked: bool) -> None:
    """What `--version` of every command does: prints it, and ends the program."""
    if asked:
        print(VERSION)
        raise SystemExit
