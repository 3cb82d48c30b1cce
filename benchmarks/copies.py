"""How many bytes each process of the server copies for a picture.

    .venv/bin/python benchmarks/copies.py --json benchmarks/copies.json

`copies.c`, which is compiled with `cc`, counts what memcpy and memmove are asked for, from 16 KB on. Beside it what the
picture must bring from process to process: the request, the tensors between the models, the answer. A count does not
depend on the machine or on what else it does.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import struct
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
from common import machine
from feed import FRAME, kinds, what_it_does
from nas_client import Detector
from nas_ensembles import contract, images
from nas_ensembles.letterbox import LetterboxSpec
from nas_serve import Server
from rich.console import Console
from rich.table import Table

PICTURES = 64
IN_FLIGHT = 8
KINDS = ("JPEG 640 x 480", "JPEG 810 x 1080", FRAME)


@dataclass(frozen=True)
class Copied:
    """Of a kind of pictures.

    Attributes:
        kind: of pictures.
        protocol: grpc or http.
        sent: bytes of a picture as it is sent, or lies in shared memory.
        copies: per picture, by process.
        megabytes: per picture, by process.
    """

    kind: str
    protocol: str
    sent: int
    copies: dict[str, float]
    megabytes: dict[str, float]


@contextlib.contextmanager
def counting(folder: Path) -> Iterator[None]:
    """What is started meanwhile counts its copies into a file in the folder."""
    library = folder / "copies.so"
    source = Path(__file__).with_suffix(".c")
    command = ["cc", "-O2", "-fno-builtin", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl", "-pthread"]
    subprocess.run(command, check=True)
    os.environ.update(LD_PRELOAD=str(library), COPIES=str(folder))
    try:
        yield
    finally:
        del os.environ["LD_PRELOAD"], os.environ["COPIES"]


def counted(folder: Path) -> dict[str, tuple[int, int]]:
    """Copies and bytes so far, by what processes do."""
    found: dict[str, tuple[int, int]] = {}
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error, OSError):
            copies, size = struct.unpack("QQ", (folder / str(process.pid)).read_bytes())
            name = what_it_does(process)
            before = found.get(name, (0, 0))
            found[name] = before[0] + copies, before[1] + size
    return {name: count for name, count in found.items() if name != "other"}


def measure(server: Server, name: str, folder: Path) -> Iterator[Copied]:
    """By kind and protocol."""
    chosen = {kind.name: kind for kind in kinds() if kind.name in KINDS}
    for protocol, url in {"grpc": server.grpc_url, "http": f"http://{server.http_url}"}.items():
        for kind in chosen.values():
            picture: Any = images.decode(kind.data) if kind.frame else kind.data
            with Detector(url, name, shared_memory=kind.frame) as detector:
                for _ in detector.detect_many([picture] * 2 * IN_FLIGHT, in_flight=IN_FLIGHT):
                    pass
                before = counted(folder)
                for _ in detector.detect_many([picture] * PICTURES, in_flight=IN_FLIGHT):
                    pass
                after = counted(folder)
            copies, sizes = (
                {who: (count[i] - before.get(who, (0, 0))[i]) / PICTURES for who, count in after.items()}
                for i in range(2)
            )
            sent = picture.nbytes if kind.frame else len(kind.data)
            yield Copied(kind.name, protocol, sent, copies, {who: size / 1e6 for who, size in sizes.items()})


def tensor_bytes() -> dict[str, int]:
    """Of a picture, by tensor, on a canvas of the usual size."""
    sizes = {"K": contract.CANDIDATES, **dict(zip("HW", LetterboxSpec().size_hw, strict=True))}
    tensors = (contract.IMAGES, contract.GEOMETRY, *contract.CANDIDATE_TENSORS, *contract.OUTPUTS)
    return {tensor.name: math.prod(tensor.dims(sizes)) * tensor.dtype.itemsize for tensor in tensors}


def table(results: list[Copied], tensors: Mapping[str, int]) -> Table:
    """A row a kind and protocol."""
    shown = Table("picture", "over", "MB sent", "MB copied", "of which", caption=f"bytes of tensors: {dict(tensors)}")
    for result in results:
        parts = sorted(result.megabytes.items(), key=lambda part: -part[1])
        words = ", ".join(f"{who} {size:.2f} ({result.copies[who]:.0f})" for who, size in parts if size >= 0.005)
        total = f"{sum(result.megabytes.values()):.2f}"
        shown.add_row(result.kind, result.protocol, f"{result.sent / 1e6:.2f}", total, words)
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model-repository", type=Path, help="where the model of recorded.py is, or is built")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        repository = arguments.model_repository or folder / "models"
        from recorded import build  # with PyTorch

        name = build(repository)
        with counting(folder):
            server = stack.enter_context(Server(repository, models=[name], open_shared_memory=True))
        results = list(measure(server, name, folder))
    tensors = tensor_bytes()
    Console(width=150).print(table(results, tensors))
    if arguments.json:
        document = {**machine(), "tensors": tensors, "results": [asdict(result) for result in results]}
        arguments.json.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
