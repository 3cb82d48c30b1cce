"""The real download code against a real HTTP server on loopback."""

from __future__ import annotations

import gzip
import hashlib
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from nas_eval.downloads import Download, fetch
from nas_eval.errors import DownloadError

from support.web import Quiet, serving

DATA = bytes(range(256)) * 8192  # 2 MiB
SHA = hashlib.sha256(DATA).hexdigest()


class Files(Quiet):
    """Serves DATA: /good resumes, /plain does not, /cut breaks off, /wrong has other bytes, /gone is 404.

    /packed comes compressed where that is accepted.
    """

    ranges: list[str | None] = []

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        Files.ranges.append(wanted)
        if self.path == "/gone":
            self.send_error(404)
            return
        data = DATA if self.path != "/wrong" else DATA[::-1]
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.path != "/plain" else 0
        if start >= len(data):
            self.send_error(416)
            return
        time.sleep(self.path == "/slow")
        packed = self.path == "/packed" and "gzip" in self.headers.get("Accept-Encoding", "")
        data = gzip.compress(data) if packed else data
        self.send_response(206 if start else 200)
        if packed:
            self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        self.wfile.write(data[start : start + 500_000] if self.path == "/cut" and not start else data[start:])


@pytest.fixture(scope="module")
def host() -> Iterator[str]:
    with serving(Files) as url:
        yield url


def download(host: str, *paths: str) -> Download:
    return Download("weights.pth", SHA, tuple(f"{host}{path}" for path in paths))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_download_reports_progress_and_is_kept(host: str, tmp_path: Path) -> None:
    steps: list[tuple[int, int]] = []
    notices: list[str] = []
    folder = tmp_path / "new" / "cache"
    for _ in range(2):
        path = fetch(download(host, "/good"), folder, lambda: notices.append("licence"), lambda _, *n: steps.append(n))
    assert path.read_bytes() == DATA and names(folder) == ["weights.pth"]
    assert steps[-1] == (len(DATA), len(DATA)) and len(steps) > 2
    assert notices == ["licence"]  # before the first download only


@pytest.mark.parametrize("path", ["/good", "/plain"])
def test_an_interrupted_download_goes_on(path: str, host: str, tmp_path: Path) -> None:
    (tmp_path / "weights.pth.part").write_bytes(DATA[:300_000])
    Files.ranges.clear()
    assert fetch(download(host, path), tmp_path).read_bytes() == DATA
    assert Files.ranges == ["bytes=300000-"]


def test_a_connection_that_breaks_is_resumed_from_the_next_url(host: str, tmp_path: Path) -> None:
    Files.ranges.clear()
    assert fetch(download(host, "/cut", "/good"), tmp_path).read_bytes() == DATA
    assert Files.ranges[0] is None and Files.ranges[1] is not None


def test_a_complete_part_only_needs_its_name(host: str, tmp_path: Path) -> None:
    (tmp_path / "weights.pth.part").write_bytes(DATA)
    assert fetch(download(host, "/good"), tmp_path).read_bytes() == DATA


def test_the_wrong_file_is_refused_and_removed(host: str, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=f"SHA-256 [0-9a-f]{{64}}, expected {SHA}"):
        fetch(download(host, "/wrong"), tmp_path)
    assert names(tmp_path) == []


def test_a_damaged_file_in_the_cache_is_replaced(host: str, tmp_path: Path) -> None:
    (tmp_path / "weights.pth").write_bytes(b"damaged")
    assert fetch(download(host, "/good"), tmp_path).read_bytes() == DATA


def test_every_url_and_the_way_out_are_named(host: str, tmp_path: Path) -> None:
    with pytest.raises(DownloadError) as caught:
        fetch(download(host, "/gone", "/wrong"), tmp_path)
    message = str(caught.value)
    assert "/gone" in message and "404" in message and "/wrong" in message
    assert f"put it at {tmp_path / 'weights.pth'}" in message


def test_a_cache_that_cannot_be_written(host: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DownloadError, match="Set NAS_CACHE"):
        fetch(download(host, "/good"), tmp_path / "file" / "cache")


def test_a_host_that_compresses(host: str, tmp_path: Path) -> None:
    assert fetch(download(host, "/packed"), tmp_path).read_bytes() == DATA


@pytest.mark.parametrize(("sha256", "left"), [(SHA, ["weights.pth.part"]), (None, [])], ids=["pinned", "not pinned"])
def test_an_interrupt_leaves_what_can_be_resumed(
    sha256: str | None, left: list[str], host: str, tmp_path: Path
) -> None:
    def interrupt(*_: object) -> None:
        assert names(tmp_path) == ["weights.pth.lock", "weights.pth.part"]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(Download("weights.pth", sha256, (f"{host}/good",)), tmp_path, progress=interrupt)
    assert names(tmp_path) == left


def test_what_is_not_pinned_starts_over(host: str, tmp_path: Path) -> None:
    """Nothing says that what is missing is of the same file."""
    Files.ranges.clear()
    unpinned = Download("weights.pth", None, (f"{host}/cut",))
    with pytest.raises(DownloadError, match=f"{host}/cut: "):
        fetch(unpinned, tmp_path)
    assert names(tmp_path) == []
    (tmp_path / "weights.pth.part").write_bytes(b"of a process that was killed")
    assert fetch(Download("weights.pth", None, (f"{host}/good",)), tmp_path).read_bytes() == DATA
    assert Files.ranges == [None, None]


@pytest.mark.parametrize("sha256", [SHA, None], ids=["pinned", "not pinned"])
def test_two_processes_receive_it_once(sha256: str | None, host: str, tmp_path: Path) -> None:
    code = "import sys; from pathlib import Path; from nas_eval.downloads import Download, fetch\n"
    code += "fetch(Download('weights.pth', sys.argv[3] or None, (sys.argv[1],)), Path(sys.argv[2]))"
    command = [sys.executable, "-c", code, f"{host}/slow", str(tmp_path), sha256 or ""]
    Files.ranges.clear()
    processes = [subprocess.Popen(command) for _ in range(3)]
    assert [process.wait(120) for process in processes] == [0, 0, 0]
    assert (tmp_path / "weights.pth").read_bytes() == DATA and names(tmp_path) == ["weights.pth"]
    assert len(Files.ranges) == 1
