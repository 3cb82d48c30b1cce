"""Read torch files without running anything from them.

A pickle is a program. The unpickler here lets it build tensors and plain containers; objects of the libraries that
checkpoints are known to mention become `Inert` stand-ins that only hold attributes (none of those libraries is
imported); any other name is refused.
"""

from __future__ import annotations

import collections
import contextlib
import os
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from ..errors import CheckpointError

# torch.save stores what it writes as it is; a file that was zipped again gains little, as weights hardly compress.
MOST_EXPANSION = 4
_ZIP_MAGIC = b"PK\x03\x04"  # by which torch.load tells


class Inert:
    """Stand-in for an object of a library that is not imported: its class's dotted name and its attributes."""

    qualified_name = ""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.arguments = args

    def __setstate__(self, state: Any) -> None:
        for part in state if isinstance(state, tuple) else (state,):
            if isinstance(part, dict):
                self.__dict__.update(part)

    # Subclasses of list and dict are filled through these.
    def append(self, item: Any) -> None:
        self.__dict__.setdefault("items", []).append(item)

    def extend(self, items: Any) -> None:
        for item in items:
            self.append(item)

    def __setitem__(self, key: Any, value: Any) -> None:
        self.__dict__.setdefault("entries", {})[key] = value

    def __hash__(self) -> int:
        return id(self)

    @property
    def class_name(self) -> str:
        """Last part of the dotted name."""
        return type(self).qualified_name.rpartition(".")[2]


def _reconstructor(cls: type, base: type, state: Any) -> Any:
    """`copyreg._reconstructor`, for stand-ins only."""
    if not issubclass(cls, Inert):
        raise pickle.UnpicklingError(f"tries to make a {cls.__name__} from parts")
    return cls.__new__(cls)


def _str(value: Any = "") -> str:
    """`str` of scalars: of a few lists that hold each other it is longer than memory."""
    if not isinstance(value, str | int | float):
        raise pickle.UnpicklingError(f"tries to write out a {type(value).__name__}")
    return str(value)


def _bytes(text: Any, encoding: Any) -> bytes:
    """`codecs.encode`, as pickle protocol 2 writes bytes."""
    if not isinstance(text, str) or encoding != "latin1":
        raise pickle.UnpicklingError(f"tries to encode a {type(text).__name__} as {encoding!r:.20}")
    return text.encode("latin1")


class _Sealed:
    """A function that a pickle may call but not change: BUILD sets attributes, `__defaults__` for one."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError(f"tries to change {self._function.__qualname__}")


_REAL: dict[str, Any] = {
    **{f"builtins.{t.__name__}": t for t in (set, frozenset, slice, complex, list, dict, tuple, int, float, bool)},
    "builtins.str": _Sealed(_str),
    "builtins.object": object,
    "_codecs.encode": _Sealed(_bytes),
    "copyreg._reconstructor": _Sealed(_reconstructor),
    "collections.OrderedDict": collections.OrderedDict,
    "collections.defaultdict": collections.defaultdict,
    "torch.Size": torch.Size,
    "torch.device": torch.device,
    "torch._utils._rebuild_tensor": _Sealed(torch._utils._rebuild_tensor),
    "torch._utils._rebuild_tensor_v2": _Sealed(torch._utils._rebuild_tensor_v2),
    "torch._utils._rebuild_parameter": _Sealed(torch._utils._rebuild_parameter),
    "torch.serialization._get_layout": _Sealed(torch.serialization._get_layout),
    **{str(value): value for value in vars(torch).values() if isinstance(value, torch.dtype)},
}
_PYTHON2_MODULES = {"__builtin__": "builtins", "copy_reg": "copyreg"}  # what pickle protocol 2 writes
_INERT_PREFIXES = (
    "super_gradients.",
    "ultralytics.",
    "torch.nn.",
    "torch.optim.",
    "torch.amp.",
    "torch.cuda.amp.",
    "torchmetrics.",
    "omegaconf.",
    "numpy.core.",
    "numpy._core.",
    "numpy.dtype",
    "numpy.ndarray",
    "numpy.float",
    "numpy.int",
    "pathlib.",
    "datetime.",
)


class _Bounded:
    """A file of which no more is read than there is: `read` allocates what it is asked for."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self.readline = file.readline

    def read(self, count: int) -> bytes:
        if count > 4096:
            here = self._file.tell()
            count = min(count, self._file.seek(0, os.SEEK_END) - here)
            self._file.seek(here)
        data: bytes = self._file.read(count)
        return data


class _Unpickler(pickle._Unpickler):
    """The one written in Python: the one in C allocates a memo as large as the largest index in the file."""

    # Allocates what the file claims, and torch writes none.
    dispatch = {code: step for code, step in pickle._Unpickler.dispatch.items() if code not in pickle.BYTEARRAY8}

    def __init__(self, file: Any, **options: Any) -> None:
        super().__init__(_Bounded(file), **options)

    def find_class(self, module: str, name: str) -> Any:
        qualified_name = f"{_PYTHON2_MODULES.get(module, module)}.{name}"
        if qualified_name in _REAL:
            return _REAL[qualified_name]
        if qualified_name.startswith(_INERT_PREFIXES):
            return type(name, (Inert,), {"qualified_name": qualified_name})
        raise pickle.UnpicklingError(f"tries to use {qualified_name}")


def _load(file: Any, **_: Any) -> Any:
    return _Unpickler(file).load()


# What torch.load asks of a pickle module.
_PICKLE_MODULE = SimpleNamespace(Unpickler=_Unpickler, load=_load, __name__="nas_build.yolo_nas.unpickle")


def load(path: Path) -> Any:
    """Read a file written by `torch.save`.

    Returns:
        What was saved: tensors, containers, and `Inert` stand-ins for everything else.

    Raises:
        CheckpointError: if the file is damaged, is no such file, grows when it is unpacked, or tries to use anything
            but tensors, containers and the classes that become stand-ins; the message names it.
    """
    try:
        _check_archive(path)
        return torch.load(path, map_location="cpu", pickle_module=_PICKLE_MODULE, weights_only=False)
    except CheckpointError:
        raise
    except pickle.UnpicklingError as error:
        if "tries to" in str(error):
            raise CheckpointError(
                f"{path}: refused: it {error}. A checkpoint needs only tensors and containers; "
                "do not load this file unless you know who made it and why."
            ) from None
        raise CheckpointError(f"{path}: not a torch checkpoint, or damaged: {error}") from error
    except Exception as error:  # torch.load raises nearly anything on damaged files
        raise CheckpointError(f"{path}: not a torch checkpoint, or damaged: {reason(error)}") from error


def reason(error: Exception) -> str:
    """The beginning of what it says, in one line; its type if it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _check_archive(path: Path) -> None:
    """Refuse, before anything is unpacked, archives that grow, run as TorchScript, or are of PyTorch's first years.

    torch's own reader is asked, as another could see other entries in the same file. It unpacks no more of an entry
    than the size that it gives here.
    """
    with path.open("rb") as file:
        zipped = file.read(len(_ZIP_MAGIC)) == _ZIP_MAGIC
    if not zipped:
        with contextlib.suppress(tarfile.TarError), tarfile.open(path, "r:"):
            raise CheckpointError(
                f"{path}: is a tar archive; expected a file of PyTorch's torch.save, as of YOLO-NAS's time."
            )
        return
    reader = torch._C.PyTorchFileReader(str(path))
    records = reader.get_all_records()
    if "constants.pkl" in records:  # torch.load would hand it to the interpreter of TorchScript
        raise CheckpointError(
            f"{path}: is a TorchScript program; expected weights. Save the state_dict() of the network it was made of."
        )
    size, unpacked = path.stat().st_size, sum(reader.get_record_size(record) for record in records)
    if unpacked > size * MOST_EXPANSION:
        raise CheckpointError(
            f"{path}: refused: its {size} bytes would become {unpacked}; a checkpoint stores its weights uncompressed. "
            "Save it again with torch.save, or do not use this file."
        )
