"""Files that do, or cost, something when they are read."""

from __future__ import annotations

import copy
import io
import pickle
import re
import resource
import struct
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch
from nas_build.errors import CheckpointError
from nas_build.yolo_nas import unpickle

from support.samples import ROOT


class Runs:
    """Runs a function when it is unpickled."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> object:
        return self.call


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("where", ["weights", "beside"])
@pytest.mark.parametrize("name", ["system", "eval", "getattr", "Popen", "run_code"])
def test_a_file_that_runs_code_is_refused_by_name(name: str, where: str, zipped: bool, tmp_path: Path) -> None:
    import os
    import runpy

    trace = tmp_path / "ran"
    evil, expected = {
        "system": (Runs(os.system, f"touch {trace}"), r"posix\.system"),
        "eval": (Runs(eval, f"open({str(trace)!r}, 'w')"), r"builtins\.eval"),
        "getattr": (Runs(getattr, [], "append"), r"builtins\.getattr"),
        "Popen": (Runs(subprocess.Popen, ["touch", str(trace)]), r"(subprocess|commands)\.Popen"),
        "run_code": (Runs(runpy._run_code, f"open({str(trace)!r}, 'w')", {}), r"runpy\._run_code"),  # type: ignore[attr-defined]
    }[name]
    saved = {"net": evil} if where == "weights" else {"net": torch.zeros(1), "processing_params": evil}
    torch.save(saved, tmp_path / "evil.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=rf"refused: it tries to use ({expected})"):
        unpickle.load(tmp_path / "evil.pth")
    assert not trace.exists()


def test_a_plain_pickle_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.pth").write_bytes(pickle.dumps(Runs(print, "hello")))
    with pytest.raises(CheckpointError, match="refused|not a torch checkpoint"):
        unpickle.load(tmp_path / "x.pth")


STRANGE = ROOT / "tests/fuzz/corpus"


def test_a_file_changes_no_function() -> None:
    with pytest.raises(CheckpointError, match="refused: it tries to change _rebuild_tensor_v2"):
        unpickle.load(STRANGE / "unpickler/changes-a-function.pt")
    assert torch._utils._rebuild_tensor_v2.__defaults__ == (None,)


def test_a_small_file_takes_no_large_memory() -> None:
    """A memo of 2^28 entries: two GiB if it were an array."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    unpickle.load(STRANGE / "unpickler/memo-index.pt")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB


@pytest.mark.filterwarnings("ignore:.*torch.jit.* is deprecated:DeprecationWarning")
def test_a_torchscript_program_is_refused(tmp_path: Path) -> None:
    """torch.load would hand it to the interpreter of TorchScript."""
    module = torch.jit.trace(torch.nn.Conv2d(3, 4, 3), torch.zeros(1, 3, 8, 8))
    torch.jit.save(module, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="x.pt: is a TorchScript program; expected weights"):
        unpickle.load(tmp_path / "x.pt")


def test_a_tar_archive_is_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.pth", "w") as archive:
        archive.addfile(tarfile.TarInfo("storages"), io.BytesIO())
    with pytest.raises(CheckpointError, match="x.pth: is a tar archive"):
        unpickle.load(tmp_path / "x.pth")


BOMB_BYTES = 256 * 2**20


PEAK_CODE = """
import resource, sys
from pathlib import Path
from nas_build.yolo_nas import checkpoint
from nas_build.errors import CheckpointError
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    checkpoint.load(Path(sys.argv[1]))
except CheckpointError as error:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, error)
"""


def zip_bomb(kind: str, path: Path) -> None:
    """A checkpoint of few bytes, of which one entry becomes `BOMB_BYTES`."""
    whole = io.BytesIO()
    torch.save({"net": {"heads.head1.cls_pred.weight": torch.zeros(2**18)}}, whole)
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as target:
        names = source.namelist()
        folder = names[0].partition("/")[0]
        grown = {"storage": "data/0", "size that is wrong": "data/0", "pickle": "data.pkl", "not used": "data/1"}
        for name in [*names, f"{folder}/data/1"]:
            content = source.read(name) if name in names else b""
            method = zipfile.ZIP_STORED if kind == "one entry as many" else zipfile.ZIP_DEFLATED
            info = zipfile.ZipInfo(name)
            info.compress_type = method
            with target.open(info, "w") as file:
                file.write(content)
                if name == f"{folder}/{grown.get(kind)}":
                    for _ in range(BOMB_BYTES // 2**20):
                        file.write(bytes(2**20))
            if kind == "one entry as many" and name.endswith("data/0"):
                for number in range(2, 2 + BOMB_BYTES // len(content)):
                    again = copy.copy(target.filelist[-1])
                    again.filename = again.orig_filename = f"{folder}/data/{number}"
                    target.filelist.append(again)
    if kind == "size that is wrong":
        data = path.read_bytes()
        (size,) = {info.file_size for info in zipfile.ZipFile(path).infolist() if info.filename.endswith("data/0")}
        path.write_bytes(data.replace(struct.pack("<I", size), struct.pack("<I", 2**20)))


@pytest.mark.parametrize("kind", ["storage", "pickle", "not used", "one entry as many", "size that is wrong"])
def test_a_zip_bomb_is_refused_before_it_is_unpacked(kind: str, tmp_path: Path) -> None:
    zip_bomb(kind, tmp_path / "x.pth")
    assert (tmp_path / "x.pth").stat().st_size < BOMB_BYTES // 32
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {sys.path!r}\n{PEAK_CODE}", str(tmp_path / "x.pth")],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    peak_kib, message = done.stdout.split(" ", 1)
    assert int(peak_kib) < BOMB_BYTES // 1024 // 8
    # A size that is too small only cuts what is unpacked.
    expected = "not YOLO-NAS S, M or L" if kind == "size that is wrong" else "refused: its [0-9]+ bytes would become"
    assert re.search(f"x.pth: {expected}", message)
