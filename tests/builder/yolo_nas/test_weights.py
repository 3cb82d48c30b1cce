"""Names, URLs and files of weights; what is downloaded comes from a real HTTP server on loopback."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from nas_build.errors import CheckpointError, DownloadError
from nas_build.yolo_nas import weights
from nas_build.yolo_nas.weights import WeightsRequest

from support.builds import Heard
from support.web import Quiet, serving

DATA = bytes(range(256)) * 64
SHA = hashlib.sha256(DATA).hexdigest()


class Files(Quiet):
    """All is DATA but what is gated, which wants a token, what is gone, and what is elsewhere: under another name."""

    asked: list[tuple[str, str | None]] = []

    def do_GET(self) -> None:
        token = self.headers.get("Authorization")
        Files.asked.append((self.path, token))
        if "gone" in self.path or ("gated" in self.path and token != "Bearer secret"):
            self.send_error(404 if "gone" in self.path else 401)
            return
        if "elsewhere" in self.path:
            self.send_response(302)
            self.send_header("Location", f"http://localhost:{self.server.server_address[1]}/storage/x.pth")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(DATA)))
        self.end_headers()
        self.wfile.write(DATA)


@pytest.fixture(scope="module")
def host() -> Iterator[str]:
    with serving(Files) as url:
        yield url


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NAS_CACHE", str(tmp_path / "cache"))
    for name in (weights.MIRROR_VARIABLE, "HF_ENDPOINT", "HF_TOKEN", "HF_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "huggingface"))
    Files.asked.clear()
    return tmp_path / "cache"


def resolve(what: str | Path, progress: Heard | None = None, **options: Any) -> Path:
    return weights.resolve(WeightsRequest(what, **options), progress or Heard())


def test_official_files_are_pinned() -> None:
    for variant in weights.OFFICIAL_SHA256:
        official = weights.official(variant)
        assert official.sha256 is not None and len(official.sha256) == 64 and len(official.urls) == 3
        assert all(
            url.startswith("https://") and url.endswith(f"/yolo_nas_{variant}_coco.pth") for url in official.urls
        )


def test_names_and_paths(tmp_path: Path) -> None:
    (tmp_path / "best_m.pth").touch()
    assert resolve("demo").name == "yolo_nas_s_demo.safetensors"
    assert resolve(tmp_path / "best_{variant}.pth", variant="m").name == "best_m.pth"
    with pytest.raises(CheckpointError, match="the demo checkpoint is YOLO-NAS S; there is none for M"):
        resolve("demo", variant="m")
    with pytest.raises(CheckpointError, match="no such file. Expected coco, demo, hf://OWNER/REPO/FILE, a URL, or a"):
        resolve(tmp_path / "best_{variant}.pth", variant="l")


def test_a_mirror_is_asked_first(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(weights.MIRROR_VARIABLE, f"{host}/mine/")
    monkeypatch.setitem(weights.OFFICIAL_SHA256, "m", SHA)
    progress = Heard()
    for _ in range(2):
        assert resolve("coco", progress, variant="m").read_bytes() == DATA
    assert [path for path, _ in Files.asked] == ["/mine/yolo_nas_m_coco.pth"]
    assert progress.warnings == [weights.LICENCE_NOTICE]


def test_each_host_that_fails_is_named_with_its_answer(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "OFFICIAL_HOSTS", (f"{host}/gone", "http://127.0.0.1:9", f"{host}/good"))
    with pytest.raises(DownloadError) as caught:
        resolve("coco")  # what is there is not the official file
    message = str(caught.value)
    assert f"{host}/gone/yolo_nas_s_coco.pth: 404 Not Found\n" in message
    assert "http://127.0.0.1:9/yolo_nas_s_coco.pth: " in message and f"SHA-256 {SHA}, expected c1b1d914" in message
    assert "put it at" in message and "Or give its path; the demo weights need no download." in message
    assert caught.value.options == ("weights=FILE", "weights=demo")
    monkeypatch.setitem(weights.OFFICIAL_SHA256, "s", SHA)
    assert resolve("coco").read_bytes() == DATA


def test_a_url_that_is_pinned(host: str, cache: Path) -> None:
    progress = Heard()
    path = resolve(f"{host}/best_{{variant}}.pth?x=1", progress, variant="l", sha256=SHA.upper())
    assert path.read_bytes() == DATA and path.name.endswith("-best_l.pth") and progress.warnings == []
    with pytest.raises(DownloadError, match=f"SHA-256 {SHA}, expected {'0' * 64}"):
        resolve(f"{host}/other.pth", sha256="0" * 64)
    assert [one.name for one in cache.iterdir()] == [path.name]


def test_a_url_that_is_not_pinned(host: str) -> None:
    with pytest.raises(CheckpointError, match="anybody on the way could change it") as caught:
        resolve(f"{host}/best.pth")
    assert caught.value.options == ("sha256",) and not Files.asked


def test_hugging_face(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", f"{host}/")
    progress = Heard()
    path = resolve("hf://me/my.repo/deep/best_{variant}.safetensors@v1/2", progress, variant="m")
    assert path.name.endswith("-best_m.safetensors")
    assert Files.asked == [("/me/my.repo/resolve/v1%2F2/deep/best_m.safetensors", None)]
    (warning,) = progress.warnings
    assert f"is not pinned: what is used, {path}, has SHA-256 {SHA}" in warning and progress.options == {"sha256"}
    assert resolve("hf://me/my.repo/best.pth", sha256=SHA).name.endswith("-best.pth")
    assert Files.asked[-1] == ("/me/my.repo/resolve/main/best.pth", None)
    with pytest.raises(DownloadError, match="401.*(.|\n)*A gated repository wants your HF_TOKEN"):
        resolve("hf://me/gated/best.pth")
    monkeypatch.setenv("HF_TOKEN", "secret")
    assert resolve("hf://me/gated/best.pth").read_bytes() == DATA
    for wrong in ("hf://me", "hf://me/repo", "hf://me/repo/", "hf://me/repo/x@"):
        with pytest.raises(CheckpointError, match="expected hf://OWNER/REPO/FILE"):
            resolve(wrong)


def test_the_token_that_a_login_left_stays_with_its_host(
    host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file itself is on another host, which gets no token."""
    monkeypatch.setenv("HF_ENDPOINT", host)
    (tmp_path / "huggingface").mkdir()
    (tmp_path / "huggingface/token").write_text("secret\n")
    assert resolve("hf://me/gated/elsewhere.pth", sha256=SHA).read_bytes() == DATA
    (first, token), (second, stripped) = Files.asked
    assert (first, token) == ("/me/gated/resolve/main/elsewhere.pth", "Bearer secret")
    assert (second, stripped) == ("/storage/x.pth", None)


def test_secrets_of_a_url_are_not_shown(host: str) -> None:
    with pytest.raises(DownloadError) as caught:
        resolve(f"{host.replace('//', '//me:word@')}/gone.pth?signature=abc", sha256=SHA)
    assert f"{host}/gone.pth: 404 Not Found" in str(caught.value)
    assert "abc" not in str(caught.value) and "word" not in str(caught.value)


def test_a_file_that_is_another(tmp_path: Path) -> None:
    (tmp_path / "x.pth").write_bytes(DATA)
    assert resolve(tmp_path / "x.pth", sha256=SHA) == tmp_path / "x.pth"
    with pytest.raises(CheckpointError, match=f"has SHA-256 {SHA}, expected {'0' * 64}") as caught:
        resolve(tmp_path / "x.pth", sha256="0" * 64)
    assert caught.value.options == ("sha256",)
