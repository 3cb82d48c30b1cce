"""Which nas-triton this is. All packages are one distribution."""

from importlib import metadata

VERSION = metadata.version("nas-triton")
