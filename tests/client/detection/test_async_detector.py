from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
from nas_client import AsyncDetector, Detected, Detector, Failed, ImageRefused, ServerUnavailable
from nas_serve import Server

from support.samples import PICTURES, SAMPLES

INT8 = "yolo_nas_s_int8"
BUS = SAMPLES / "bus.jpg"


@pytest.fixture(params=["grpc", "http"])
def url(request: pytest.FixtureRequest, server: Server) -> str:
    return server.grpc_url if request.param == "grpc" else f"http://{server.http_url}"


def test_several_at_once_are_what_one_finds_after_the_other(url: str) -> None:
    async def many() -> list[tuple[str, ...]]:
        async with AsyncDetector(url, INT8) as detector:
            found = await asyncio.gather(*(detector.detect(path, score_threshold=0.5) for path in PICTURES))
            return [one.names for one in found]

    with Detector(url, INT8) as detector:
        expected = [detector.detect(path, score_threshold=0.5).names for path in PICTURES]
    assert asyncio.run(many()) == expected


def test_the_loop_goes_on_meanwhile(url: str) -> None:
    async def count() -> int:
        ticks = 0
        async with AsyncDetector(url, INT8) as detector:
            await detector.detect(BUS)
            waiting = [asyncio.create_task(detector.detect(BUS)) for _ in range(8)]
            while not all(task.done() for task in waiting):
                await asyncio.sleep(0.001)
                ticks += 1
            await asyncio.gather(*waiting)
        return ticks

    assert asyncio.run(count()) > 10


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_stream_in_order_with_one_that_fails(asynchronous: bool, url: str) -> None:
    items = [BUS, b"no picture", SAMPLES / "gone.jpg", SAMPLES / "chelsea.png"] * 3

    async def each() -> AsyncIterator[object]:
        for item in items:
            yield item

    async def outcomes() -> list[object]:
        async with AsyncDetector(url, INT8, in_flight=3) as detector:
            source = each() if asynchronous else items
            return [outcome async for outcome in detector.detect_many(source)]  # type: ignore[type-var]

    found = asyncio.run(outcomes())
    assert [one.item for one in found] == items  # type: ignore[attr-defined]
    assert [type(one) for one in found] == [Detected, Failed, Failed, Detected] * 3
    assert isinstance(found[1].error, ImageRefused) and isinstance(found[2].error, OSError)  # type: ignore[attr-defined]


def test_who_has_seen_enough_may_go(url: str) -> None:
    async def first() -> object:
        async with AsyncDetector(url, INT8, in_flight=2) as detector:
            async for outcome in detector.detect_many([BUS] * 1000):
                return outcome
        return None

    started = time.monotonic()
    assert isinstance(asyncio.run(first()), Detected)
    assert time.monotonic() - started < 20


def test_without_a_server_there_is_one_error() -> None:
    async def ask() -> None:
        async with AsyncDetector("localhost:9", INT8) as detector:
            async for _ in detector.detect_many([BUS] * 5):
                pass

    with pytest.raises(ServerUnavailable):
        asyncio.run(ask())
