"""Triton over HTTP: a client for each thread, as the library wants it."""

from __future__ import annotations

import threading
from typing import Any

import gevent.ssl
import tritonclient.http
from nas_ensembles import admin_key

from .address import Address
from .base import Transport
from .credentials import Credentials


class HttpTransport(Transport):
    """Calls over HTTP; a client has its deadline from the beginning, the same for every call."""

    _library = tritonclient.http
    _admin_header = admin_key.HTTP_HEADER

    def __init__(
        self, address: Address, timeout_s: float, retries: int = 0, credentials: Credentials | None = None
    ) -> None:
        super().__init__(address, timeout_s, retries, credentials)
        self._of_thread = threading.local()
        self._opened: list[Any] = []

    def model_config(self, model: str, version: str = "") -> dict[str, Any]:
        return dict(self._call(lambda _: self._client.get_model_config(model, version)))

    def versions(self, model: str) -> list[str]:
        return list(self._call(lambda _: self._client.get_model_metadata(model))["versions"])

    def index(self) -> list[dict[str, str]]:
        return list(self._call(lambda _: self._client.get_model_repository_index(headers=self._admin_headers())))

    def statistics(self, model: str) -> dict[str, Any]:
        answer = self._call(lambda _: self._client.get_inference_statistics(model, headers=self._admin_headers()))
        return dict(answer["model_stats"][0])

    def server_version(self) -> str:
        return str(self._call(lambda _: self._client.get_server_metadata())["version"])

    def register(self, region: str, key: str, byte_size: int) -> None:
        self._call(
            lambda _: self._client.register_system_shared_memory(region, key, byte_size, headers=self._admin_headers())
        )

    def registered(self) -> list[str]:
        answer = self._call(lambda _: self._client.get_system_shared_memory_status(headers=self._admin_headers()))
        return [region["name"] for region in answer]

    def close(self) -> None:
        opened, self._opened = self._opened, []
        for client in opened:
            client.close()

    def _infer(self, model: str, tensors: list[Any], wanted: list[Any], seconds: float) -> Any:
        return self._client.infer(model, tensors, outputs=wanted, timeout=int(seconds * 1e6))

    def _unregister(self, region: str, seconds: float) -> None:
        self._client.unregister_system_shared_memory(region, headers=self._admin_headers())

    @property
    def _client(self) -> Any:
        """Of this thread."""
        client = getattr(self._of_thread, "client", None)
        if client is None:
            client = self._of_thread.client = tritonclient.http.InferenceServerClient(
                self.address.host_port,
                ssl=self.address.tls,
                ssl_context_factory=self._tls,
                connection_timeout=self._timeout_s,
                network_timeout=self._timeout_s,
            )
            self.credentials.authorize(self._library, client)
            self._opened.append(client)
        return client

    def _tls(self, **_: Any) -> Any:
        """Context of a connection: this machine's authorities, or those that are named; the client's certificate."""
        context = gevent.ssl.create_default_context(cafile=self.credentials.authorities)
        if self.credentials.certificate is not None:
            context.load_cert_chain(self.credentials.certificate, self.credentials.key)
        return context
