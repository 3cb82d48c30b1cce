"""Is a model repository what was built? The manifests' hashes say so, and signatures say who built it.

A served model is five models of one version. Its manifest lists the SHA-256 of their files; a config.pbtxt may differ,
for it is tuned by hand. A signature (OpenSSF Model Signing, a local key) covers all of it as it was when it was signed:
any other byte, an additional file or a newer version is an error. Hashing needs the standard library alone, signatures
want model-signing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from . import contract

CONFIG = "config.pbtxt"
MANIFEST = "manifest.json"
SIGNED = "signed.json"  # path and SHA-256 of every file, beside the manifest
SIGNATURE = "signed.sig"  # over the folder with both
_SHOWN = 5


class IntegrityError(Exception):
    """A model repository is not what was built or signed; the message names the first files that differ."""


def check(repository: Path, models: Sequence[str] = (), public_key: Path | None = None) -> list[str]:
    """Compare the newest versions in a model repository with their manifests.

    Args:
        repository: any; models without a manifest are left alone, unless there is a key.
        models: these only; all if empty.
        public_key: PEM file. Everything must be signed with its private key then.

    Returns:
        Names of the served models that were checked.

    Raises:
        IntegrityError: if a file is changed, missing, or not signed.
    """
    built = {path.parent.parent.name for path in repository.glob(f"*/*/{MANIFEST}")}
    checked = sorted(built & set(models) if models else built)
    if public_key is None:
        for name in checked:
            _compare_with_manifest(repository, name)
        return checked
    for name in checked:
        _verify(repository, name, public_key)
    signed = {part for name in checked for part in parts(name)}
    there = set(models) or {path.parent.name for path in repository.glob(f"*/{CONFIG}")}
    if not there or there - signed:
        what = ", ".join(sorted(there - signed)[:_SHOWN]) or "no model"
        raise IntegrityError(
            f"{repository}: {what}: not signed. Sign what nas-build builds with --sign, remove the rest."
        )
    return checked


def sign(repository: Path, name: str, private_key: Path) -> Path:
    """Sign the newest version of a served model, its config.pbtxt files as they are now.

    Args:
        repository: it is in.
        name: of the ensemble.
        private_key: PEM file of an elliptic curve (NIST P-256, P-384 or P-521), without a password.

    Returns:
        The signature's path.

    Raises:
        IntegrityError: if the key cannot be used, or model-signing is not installed.
    """
    folder = repository / name / str(_newest(repository / name))
    files = dict(_files(repository, name))
    if unread := sorted(path for path, digest in files.items() if not digest):
        raise IntegrityError(f"{name} cannot be signed: {', '.join(unread[:_SHOWN])}: a link, or not to be read")
    text = json.dumps({"files": files}, indent=1, sort_keys=True)
    signing = _library().signing
    try:
        (folder / SIGNED).write_text(text + "\n", encoding="utf-8")
        config = signing.Config().use_elliptic_key_signer(private_key=private_key)
        config.set_hashing_config(_all_but_the_signature(folder)).sign(folder, folder / SIGNATURE)
    except (OSError, ValueError, TypeError) as error:
        raise IntegrityError(f"{name} cannot be signed with {private_key}: {error}") from None
    return folder / SIGNATURE


def parts(name: str) -> list[str]:
    """Names of the five models that a served model is."""
    return [name, contract.frames_name(name), *(contract.stage_name(name, stage) for stage in contract.STAGES)]


def _compare_with_manifest(repository: Path, name: str) -> None:
    path = repository / name / str(_newest(repository / name)) / MANIFEST
    try:
        files: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))["files"]
    except FileNotFoundError:
        return
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise IntegrityError(f"{path}: cannot be read: {error}") from None
    for file, digest in files.items():
        if Path(file).name != CONFIG and _sha256(repository / file) != digest:
            raise IntegrityError(
                f"{repository / file}: it is not what was built. Copy {name} again, build it again with --force, or "
                f"remove {path} if you changed it on purpose."
            )


def _verify(repository: Path, name: str, public_key: Path) -> None:
    folder = repository / name / str(_newest(repository / name))
    if not (folder / SIGNATURE).exists():
        raise IntegrityError(f"{folder}: not signed. Sign it: nas-build --sign KEY, with the options of its build.")
    verifying = _library().verifying
    try:
        config = verifying.Config().use_elliptic_key_verifier(public_key=public_key)
        config.set_hashing_config(_all_but_the_signature(folder)).verify(folder, folder / SIGNATURE)
        signed: dict[str, str] = json.loads((folder / SIGNED).read_text(encoding="utf-8"))["files"]
    except Exception as error:  # whatever the library says of a file that an attacker wrote
        raise IntegrityError(f"{folder / SIGNATURE}: no signature of {public_key} over {name}: {error}") from None
    there = dict(_files(repository, name))
    wrong = sorted(
        path for path in signed.keys() | there.keys() if signed.get(path) != there.get(path) or not there.get(path)
    )
    if wrong:
        told = (
            f"{path} ({'missing' if path not in there else 'changed' if path in signed else 'added'})" for path in wrong
        )
        raise IntegrityError(f"{repository}: not what was signed as {name}: {', '.join(list(told)[:_SHOWN])}")


def _files(repository: Path, name: str) -> Iterator[tuple[str, str]]:
    """Path in the repository and SHA-256 of every file that Triton may read of a served model's newest versions."""
    for part in parts(name):
        if (repository / part).is_symlink():
            yield part, ""
        version = str(_newest(repository / part))
        for path in sorted((repository / part).rglob("*")):
            inside = path.relative_to(repository / part).parts
            if inside[0].isdigit() and inside[0] != version or path.is_dir() and not path.is_symlink():
                continue  # an older version is not served
            if inside[-1] not in (SIGNED, SIGNATURE) or part != name:
                yield str(path.relative_to(repository)), _sha256(path)


def _newest(folder: Path) -> int:
    return max((int(path.name) for path in folder.glob("*") if path.name.isdigit()), default=0)


def _sha256(path: Path) -> str:
    """Of a file; empty if it cannot be read, or is a link, which leads elsewhere tomorrow."""
    if path.is_symlink():
        return ""
    try:
        with path.open("rb") as file:
            digest = hashlib.sha256()
            while chunk := file.read(2**20):
                digest.update(chunk)
            return digest.hexdigest()
    except OSError:
        return ""


def _all_but_the_signature(folder: Path) -> Any:
    return _library().hashing.Config().set_ignored_paths(paths=[folder / SIGNATURE], ignore_git_paths=False)


def _library() -> Any:
    try:
        import model_signing
    except ImportError:
        raise IntegrityError("model-signing is not installed: pip install 'nas-triton[sign]'") from None
    return model_signing
