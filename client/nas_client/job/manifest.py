"""Which pictures a job is of: a table of ids and URLs."""

from __future__ import annotations

import io
from pathlib import PurePosixPath

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from nas_ensembles import images

from ..errors import JobError
from .storage import Place

SCHEMA = pa.schema([("id", pa.string()), ("url", pa.string())])
_COLUMNS = ("url", "uri", "path", "file", "filename", "file_name")


def read(source: str) -> pa.Table:
    """The pictures of a source, each once.

    Args:
        source: a folder or prefix, whose pictures are taken, their paths in it being their ids; or a list of pictures:
            .txt with one on each line, .csv or .parquet with a column `url` or `path`, and `id` perhaps. Paths in a
            list are relative to it.

    Raises:
        JobError: there is none, or it cannot be read.
    """
    place = Place.of(source)
    try:
        kind = PurePosixPath(place.path).suffix.lower()
        if kind in (".txt", ".csv", ".parquet") and place.filesystem.isfile(place.path):
            table = _listed(place, kind)
        else:
            table = _found(place)
    except (OSError, pa.ArrowException) as error:
        raise JobError(f"{source}: cannot be read: {error}") from None
    except UnicodeError as error:
        named = error.object if isinstance(error, UnicodeDecodeError | UnicodeEncodeError) else error
        raise JobError(
            f"{source}: a name that is not UTF-8 text: {named!r:.200}; rename it, or list the others"
        ) from None
    if not len(table):
        raise JobError(
            f"{source}: no picture in it; expected a folder of {', '.join(sorted(images.SUFFIXES))}, or a list"
        )
    return _each_once(table)


def _found(place: Place) -> pa.Table:
    if not place.filesystem.isdir(place.path):
        raise JobError(f"{place}: no such folder, nor a list that ends in .txt, .csv or .parquet")
    start = len(place.path) + 1
    paths = sorted(
        path for path in place.filesystem.find(place.path) if PurePosixPath(path).suffix.lower() in images.SUFFIXES
    )
    unstrip = place.filesystem.unstrip_protocol
    return pa.table({"id": [path[start:] for path in paths], "url": [unstrip(path) for path in paths]}, SCHEMA)


def _listed(place: Place, kind: str) -> pa.Table:
    data = place.read()
    if kind == ".txt":
        lines = [line for line in data.decode().splitlines() if line.strip()]
        table = pa.table({"url": lines}, pa.schema([("url", pa.string())]))
    else:
        file = io.BytesIO(data)
        # Numbers stay as they are written: 000000000139 is the name of a picture.
        as_text = pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(("id", *_COLUMNS), pa.string()))
        is_csv = kind == ".csv"
        table = pyarrow.csv.read_csv(file, convert_options=as_text) if is_csv else pyarrow.parquet.read_table(file)
    column = next((name for name in _COLUMNS if name in table.column_names), None)
    if column is None:
        raise JobError(f"{place}: has columns {', '.join(table.column_names)}; expected one named url or path")
    urls = table[column].cast(pa.string()).to_pylist()
    ids = table["id"].cast(pa.string()).to_pylist() if "id" in table.column_names else urls
    base = str(place)
    return pa.table({"id": ids, "url": [_absolute(base, url) for url in urls]}, SCHEMA)


def _absolute(base: str, url: str) -> str:
    if "://" in url or url.startswith("/"):
        return url
    return f"{base.rpartition('/')[0]}/{url}"


def _each_once(table: pa.Table) -> pa.Table:
    first: dict[str, int] = {}
    for row, name in enumerate(table["id"].to_pylist()):
        first.setdefault(name, row)
    return table if len(first) == len(table) else table.take(list(first.values()))
