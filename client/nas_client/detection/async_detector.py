"""The same client for asyncio: requests wait in threads of its own, and never in the event loop."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Iterable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, TypeVar

from ..errors import ClientError
from .detections import Detections
from .detector import Detector
from .image_input import ImageInput, Loaded, load
from .outcomes import Detected, Failed, Outcome

_Image = TypeVar("_Image", bound=ImageInput)


class AsyncDetector:
    """Runs one served model, for programs that use asyncio.

    >>> async with AsyncDetector("localhost:8001") as detector:
    ...     first, second = await asyncio.gather(detector.detect("bus.jpg"), detector.detect("cat.jpg"))

    Args:
        url: as of `Detector`, like all that follows.
        model: its name; may be left out when the server has one.
        in_flight: requests at a time, however many are waited for.
        options: further ones of `Detector`.
    """

    def __init__(self, url: str | None = None, model: str | None = None, *, in_flight: int = 8, **options: Any) -> None:
        self.detector = Detector(url, model, **options)
        self._in_flight = in_flight
        self._pool = ThreadPoolExecutor(in_flight, thread_name_prefix="nas-client-async")

    async def detect(self, picture: ImageInput, **thresholds: Any) -> Detections:
        """Detect in one picture; thresholds and errors are those of `Detector.detect`.

        A request that was sent is answered even if nobody waits for it any more.
        """
        found = await self._run(self.detector.detect, picture, **thresholds)
        assert isinstance(found, Detections)
        return found

    async def detect_many(
        self, items: Iterable[_Image] | AsyncIterable[_Image], **thresholds: Any
    ) -> AsyncGenerator[Outcome[_Image], None]:
        """Detect in a stream of pictures, several requests in flight, outcomes in order.

        A picture that fails is `Failed`, and the others go on.

        Args:
            items: pictures; more are taken only when there is room for their requests.
            thresholds: as of `Detector.detect`.
        """
        await self._run(lambda: self.detector.model)  # one clear error instead of one per picture
        pending: deque[asyncio.Task[Outcome[_Image]]] = deque()
        try:
            async for item in _each(items):
                pending.append(asyncio.create_task(self._outcome(item, thresholds)))
                while pending and (len(pending) > self._in_flight or pending[0].done()):
                    yield await pending.popleft()
            while pending:
                yield await pending.popleft()
        finally:
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)

    async def close(self) -> None:
        """Wait for what is under way, release shared memory and close the connections."""
        await asyncio.to_thread(self._pool.shutdown, cancel_futures=True)
        self.detector.close()

    async def __aenter__(self) -> AsyncDetector:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _outcome(self, item: _Image, thresholds: dict[str, Any]) -> Outcome[_Image]:
        def run() -> tuple[Loaded, Detections]:
            image = load(item)
            return image, self.detector.detect(image, **thresholds)

        try:
            image, found = await self._run(run)
        except (ClientError, OSError, ValueError) as error:
            return Failed(item, error)
        return Detected(item, image, found)

    async def _run(self, function: Any, *arguments: Any, **options: Any) -> Any:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, lambda: function(*arguments, **options))


async def _each(items: Iterable[_Image] | AsyncIterable[_Image]) -> AsyncGenerator[_Image, None]:
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item
