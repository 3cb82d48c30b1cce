"""Certificates of an authority that lives as long as a test."""

from __future__ import annotations

import subprocess
from pathlib import Path


def certificates(folder: Path) -> None:
    """An authority (ca), a server and a client that it vouches for: NAME.pem and NAME.key."""

    def openssl(*arguments: object) -> None:
        done = subprocess.run(["openssl", *map(str, arguments)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    new = ("-newkey", "rsa:2048", "-nodes")
    openssl(
        *("req", "-x509", *new, "-days", "1", "-subj", "/CN=tests"),
        "-keyout",
        folder / "ca.key",
        "-out",
        folder / "ca.pem",
    )
    (folder / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1")
    for name in ("server", "client"):
        openssl("req", *new, "-subj", f"/CN={name}", "-keyout", folder / f"{name}.key", "-out", folder / f"{name}.csr")
        openssl(
            *("x509", "-req", "-in", folder / f"{name}.csr", "-CA", folder / "ca.pem", "-CAkey", folder / "ca.key"),
            *("-CAcreateserial", "-days", "1", "-extfile", folder / "names", "-out", folder / f"{name}.pem"),
        )
