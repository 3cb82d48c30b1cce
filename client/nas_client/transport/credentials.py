"""Who a client is, and whom it trusts: a token for a gateway, certificates for TLS."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

TOKEN = "NAS_TOKEN"
CLIENT_CERT = "NAS_TLS_CLIENT_CERT"
CLIENT_KEY = "NAS_TLS_CLIENT_KEY"
AUTHORITIES = "NAS_TLS_CA"


class Credentials(NamedTuple):
    """Of one client.

    Attributes:
        token: sent as `authorization: Bearer ...` with every call.
        authorities: PEM file of those whose certificates are trusted; None for the library's own.
        certificate: PEM file, the client's own for a server that wants one; `key` is its private key.
    """

    token: str | None = None
    authorities: str | None = None
    certificate: str | None = None
    key: str | None = None

    @classmethod
    def of_environment(cls) -> Credentials:
        """NAS_TOKEN, NAS_TLS_CA, NAS_TLS_CLIENT_CERT and NAS_TLS_CLIENT_KEY; what is empty is not given.

        Raises:
            ValueError: if a file is not there, a certificate has no key, or no header can carry the token.
        """
        found = cls(*(os.environ.get(name) or None for name in (TOKEN, AUTHORITIES, CLIENT_CERT, CLIENT_KEY)))
        for name, path in zip((AUTHORITIES, CLIENT_CERT, CLIENT_KEY), found[1:], strict=True):
            if path is not None and not Path(path).is_file():
                raise ValueError(f"{name}={path}: no such file")
        if (found.certificate is None) != (found.key is None):
            raise ValueError(f"{CLIENT_CERT} and {CLIENT_KEY} go together")
        if found.token is not None and not (found.token.isascii() and found.token.isprintable()):
            raise ValueError(f"{TOKEN} has characters in it that no header can carry")
        return found

    @property
    def headers(self) -> Mapping[str, str]:
        """Of every call."""
        return {} if self.token is None else {"authorization": f"Bearer {self.token}"}

    def authorize(self, library: Any, client: Any) -> None:
        """Let a client of one of tritonclient's modules send the headers."""
        headers = self.headers
        if not headers:
            return

        class Authorized(library.InferenceServerClientPlugin):  # type: ignore[misc]
            def __call__(self, request: Any) -> None:
                request.headers.update(headers)

        client.register_plugin(Authorized())
