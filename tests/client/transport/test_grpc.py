"""Several servers behind one name, as a headless service in Kubernetes has them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from nas_client.transport.address import Address
from nas_client.transport.grpc import GrpcTransport
from tritonclient.grpc import service_pb2


def server(version: str) -> tuple[grpc.Server, int]:
    """Answers what version it is."""

    def metadata(request: object, context: object) -> service_pb2.ServerMetadataResponse:
        return service_pb2.ServerMetadataResponse(name="triton", version=version)

    handler = grpc.unary_unary_rpc_method_handler(
        metadata,
        request_deserializer=service_pb2.ServerMetadataRequest.FromString,
        response_serializer=service_pb2.ServerMetadataResponse.SerializeToString,
    )
    started = grpc.server(ThreadPoolExecutor(2))
    handlers = {"ServerMetadata": handler}
    started.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("inference.GRPCInferenceService", handlers)])
    port = started.add_insecure_port("127.0.0.1:0")
    started.start()
    return started, port


@pytest.fixture
def three() -> Iterator[list[tuple[grpc.Server, int]]]:
    servers = [server(f"{i}") for i in range(3)]
    yield servers
    for one, _ in servers:
        one.stop(None)


def test_each_request_is_the_next_ones_and_one_that_ends_is_left_out(three: list[tuple[grpc.Server, int]]) -> None:
    name = "ipv4:" + ",".join(f"127.0.0.1:{port}" for _, port in three)  # as DNS would answer
    transport = GrpcTransport(Address("grpc", name), timeout_s=10, retries=3)
    asked = Counter(transport.server_version() for _ in range(60))
    assert asked.keys() == {"0", "1", "2"} and min(asked.values()) > 10
    three[0][0].stop(None).wait()
    asked = Counter(transport.server_version() for _ in range(60))
    assert asked.keys() == {"1", "2"}
    transport.close()
