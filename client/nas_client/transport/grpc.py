"""Triton over gRPC: one client for all threads."""

from __future__ import annotations

from typing import Any

import tritonclient.grpc
from nas_ensembles import admin_key

from .base import Transport

# A name may be that of several servers, as of a headless service in Kubernetes: each request is the next one's. Without
# a policy all are the first's.
_BALANCED = [
    ("grpc.lb_policy_name", "round_robin"),
    ("grpc.max_send_message_length", tritonclient.grpc.MAX_GRPC_MESSAGE_SIZE),
    ("grpc.max_receive_message_length", tritonclient.grpc.MAX_GRPC_MESSAGE_SIZE),
]


class GrpcTransport(Transport):
    """Calls over gRPC; each is given what is left of its deadline."""

    _library = tritonclient.grpc
    _admin_header = admin_key.GRPC_HEADER
    _opened: Any = None

    def model_config(self, model: str, version: str = "") -> dict[str, Any]:
        answer = self._call(
            lambda seconds: self._client.get_model_config(model, version, as_json=True, client_timeout=seconds)
        )
        return dict(answer["config"])

    def versions(self, model: str) -> list[str]:
        answer = self._call(
            lambda seconds: self._client.get_model_metadata(model, as_json=True, client_timeout=seconds)
        )
        return list(answer["versions"])

    def index(self) -> list[dict[str, str]]:
        answer = self._call(
            lambda seconds: self._client.get_model_repository_index(
                headers=self._admin_headers(), as_json=True, client_timeout=seconds
            )
        )
        return list(answer.get("models", []))

    def statistics(self, model: str) -> dict[str, Any]:
        answer = self._call(
            lambda seconds: self._client.get_inference_statistics(
                model, headers=self._admin_headers(), as_json=True, client_timeout=seconds
            )
        )
        return dict(answer["model_stats"][0])

    def server_version(self) -> str:
        answer = self._call(lambda seconds: self._client.get_server_metadata(as_json=True, client_timeout=seconds))
        return str(answer["version"])

    def register(self, region: str, key: str, byte_size: int) -> None:
        self._call(
            lambda seconds: self._client.register_system_shared_memory(
                region, key, byte_size, headers=self._admin_headers(), client_timeout=seconds
            )
        )

    def registered(self) -> list[str]:
        answer = self._call(
            lambda seconds: self._client.get_system_shared_memory_status(
                headers=self._admin_headers(), as_json=True, client_timeout=seconds
            )
        )
        return list(answer.get("regions", {}))

    def close(self) -> None:
        with self._lock:
            opened, self._opened = self._opened, None
        if opened is not None:
            opened.close()

    def _infer(self, model: str, tensors: list[Any], wanted: list[Any], seconds: float) -> Any:
        return self._client.infer(model, tensors, outputs=wanted, timeout=int(seconds * 1e6), client_timeout=seconds)

    def _unregister(self, region: str, seconds: float) -> None:
        self._client.unregister_system_shared_memory(region, headers=self._admin_headers(), client_timeout=seconds)

    @property
    def _client(self) -> Any:
        with self._lock:
            if self._opened is None:
                self._opened = tritonclient.grpc.InferenceServerClient(
                    self.address.host_port,
                    ssl=self.address.tls,
                    root_certificates=self.credentials.authorities,
                    certificate_chain=self.credentials.certificate,
                    private_key=self.credentials.key,
                    channel_args=None if self.address.is_this_machine else _BALANCED,
                )
                self.credentials.authorize(self._library, self._opened)
            return self._opened
