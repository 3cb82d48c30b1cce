"""The client: pictures in, detections out."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, TypeVar, overload

import numpy as np
from nas_ensembles import contract
from numpy.typing import NDArray

from ..errors import AdminKeyMissing, ClientError, ModelUnavailable, SharedMemoryRefused
from ..transport import Address, Protocol, SharedTensor, connect
from ..transport.shared_memory import SharedFrames, SharedMemoryForgotten
from .detections import Detections

# A file's path, the bytes of an encoded picture, or a frame: (H, W, 3) uint8 in RGB.
Picture = str | Path | bytes | NDArray[np.uint8]
_Item = TypeVar("_Item")
RETRIES = 10
_OUTPUTS = tuple(tensor.name for tensor in contract.OUTPUTS)


@dataclass(frozen=True)
class Model:
    """A model in the server's repository.

    Attributes:
        state: READY, UNAVAILABLE, ...; `reason` says why it is not READY.
        parameters: of its config, decoded: class names, letterbox, precision, checkpoint hash, build versions.
    """

    name: str
    version: str
    state: str
    reason: str
    platform: str
    max_batch_size: int
    parameters: dict[str, Any] = field(repr=False)

    @property
    def detects(self) -> bool:
        """Whether it is an ensemble that `Detector` can use."""
        return self.platform == "ensemble" and contract.CLASS_NAMES in self.parameters


@dataclass(frozen=True)
class Outcome(Generic[_Item]):
    """What became of one item of `Detector.detect_many`: either detections or an error.

    Attributes:
        picture: as it was read: encoded bytes, or a frame.
    """

    item: _Item
    picture: bytes | NDArray[np.uint8]
    detections: Detections | None
    error: Exception | None


class Detector:
    """Runs one served model.

    >>> detector = Detector("localhost:8001")
    >>> detector.detect("bus.jpg").names
    ('bus', 'person', 'person', 'person', 'person')

    Args:
        url: host:port of gRPC, or with a scheme: grpc://, grpcs://, http://, https://. Default localhost:8001.
        model: its name; may be left out when the server has one.
        protocol: "grpc" or "http"; default is the scheme's, else gRPC.
        timeout_s: for each request, with its retries.
        retries: of a request that the server could not take, or whose connection was cut; after pauses that grow.
        shared_memory: frames travel in system shared memory. None: where the server's address is this machine's and
            it takes them; otherwise they are sent. True: or it is an error.

    Raises:
        ServerUnavailable, ModelUnavailable: as their names say; nothing is contacted before the first use.
    """

    def __init__(
        self,
        url: str | None = None,
        model: str | None = None,
        *,
        protocol: Protocol | None = None,
        timeout_s: float = 60.0,
        retries: int = RETRIES,
        shared_memory: bool | None = None,
    ) -> None:
        self.transport = connect(Address.parse(url, protocol), timeout_s, retries)
        self._name = model
        self._model: Model | None = None
        self._must_share = shared_memory is True
        shares = self.transport.address.is_this_machine if shared_memory is None else shared_memory
        self._shared = SharedFrames(self.transport) if shares else None

    @property
    def shares_memory(self) -> bool:
        """Whether frames travel in shared memory, as far as it was tried."""
        return self._shared is not None

    @property
    def model(self) -> Model:
        """The model in use, with its parameters as the server has them."""
        if self._model is None:
            self._model = self._find()
        return self._model

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names by label."""
        return tuple(self.model.parameters[contract.CLASS_NAMES])

    def models(self) -> list[Model]:
        """Every model in the server's repository, in order of name."""
        return sorted((self._describe(entry) for entry in self.transport.index()), key=lambda model: model.name)

    def named(self, name: str) -> Model:
        """A model that detects, with its parameters as the server has them.

        Raises:
            ModelUnavailable: if there is none of this name, or it is of another kind; says which there are.
        """
        try:
            model = self._describe({"name": name, "state": "READY"})
        except ModelUnavailable as error:
            raise self._no_such_model(name) from error
        if not model.detects:
            raise ModelUnavailable(
                f"{model.name} on {self.transport.address} is no YOLO-NAS ensemble of nas-triton: its config has "
                f"no {contract.CLASS_NAMES}. {self._served()}"
            )
        return model

    @overload
    def detect(
        self,
        picture: Picture,
        *,
        score_threshold: float | None = None,
        iou_threshold: float | None = None,
        max_detections: int | None = None,
    ) -> Detections: ...
    @overload
    def detect(
        self,
        picture: list[Picture] | tuple[Picture, ...],
        *,
        score_threshold: float | None = None,
        iou_threshold: float | None = None,
        max_detections: int | None = None,
    ) -> list[Detections]: ...
    def detect(
        self,
        picture: Picture | list[Picture] | tuple[Picture, ...],
        *,
        score_threshold: float | None = None,
        iou_threshold: float | None = None,
        max_detections: int | None = None,
    ) -> Detections | list[Detections]:
        """Detect in one picture, or in a list of them sent in batches of the model's size.

        Args:
            picture: path, bytes of an encoded picture, or a frame, (H, W, 3) uint8 RGB; or a list of these.
            score_threshold: objects must score more; default is the model's, 0.25 unless built otherwise.
            iou_threshold: of two boxes of a class that overlap more, the better stays; likewise, 0.7.
            max_detections: 1 to 300.

        Raises:
            ImageRefused: if a picture cannot be decoded or a threshold is out of range; says which.
            OSError: if a file cannot be read.
        """
        thresholds = _thresholds(score_threshold, iou_threshold, max_detections)
        if isinstance(picture, str | Path | bytes | np.ndarray):
            return self._detect([load(picture)], thresholds)[0]
        batches = _batches([load(one) for one in picture], max(1, self.model.max_batch_size))
        return [detections for batch in batches for detections in self._detect(batch, thresholds)]

    def detect_many(
        self,
        items: Iterable[_Item],
        read: Any = None,
        *,
        in_flight: int = 4,
        score_threshold: float | None = None,
        iou_threshold: float | None = None,
        max_detections: int | None = None,
    ) -> Generator[Outcome[_Item], None, None]:
        """Detect in a stream of pictures, several requests in flight, outcomes in order.

        A picture that fails is an outcome with an error, and the others go on.

        Args:
            items: pictures, or anything `read` makes a picture of; read in the threads that send.
            read: item -> picture; may raise OSError or ValueError.
            in_flight: requests at a time; the server batches them.
            score_threshold: as in `detect`.
            iou_threshold: as in `detect`.
            max_detections: as in `detect`.

        Raises:
            ServerUnavailable, ModelUnavailable: before the first outcome.
        """
        thresholds = _thresholds(score_threshold, iou_threshold, max_detections)
        _ = self.model  # one clear error instead of one per picture

        def run(item: _Item) -> Outcome[_Item]:
            picture: bytes | NDArray[np.uint8] = b""
            try:
                picture = load(item if read is None else read(item))  # type: ignore[arg-type]
                return Outcome(item, picture, self._detect([picture], thresholds)[0], None)
            except (ClientError, OSError, ValueError) as error:
                return Outcome(item, picture, None, error)

        pending: deque[Future[Outcome[_Item]]] = deque()
        pool = ThreadPoolExecutor(in_flight, thread_name_prefix="nas-client")
        try:
            for item in items:
                pending.append(pool.submit(run, item))
                while pending and (len(pending) > in_flight or pending[0].done()):
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)

    def close(self) -> None:
        """Release shared memory and close the connections."""
        if self._shared is not None:
            self._shared.close()
        self.transport.close()

    def __enter__(self) -> Detector:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _detect(self, batch: list[bytes | NDArray[np.uint8]], thresholds: dict[str, Any]) -> list[Detections]:
        """One request: encoded pictures, or frames of one shape."""
        name = self.model.name
        if isinstance(batch[0], bytes):
            encoded = np.array(batch, dtype=object).reshape(-1, 1)
            return self._infer(name, contract.IMAGE.name, encoded, thresholds)
        frames = np.ascontiguousarray(batch[0])[None] if len(batch) == 1 else np.stack(batch)
        try:
            return self._detect_frames(contract.frames_name(name), frames, thresholds)
        except ModelUnavailable as error:
            raise ModelUnavailable(
                f"{name} on {self.transport.address} takes no frames: {error}. Load {contract.frames_name(name)} too, "
                "or build the model again with this nas-build; encoded pictures can be sent meanwhile."
            ) from error

    def _detect_frames(self, name: str, frames: NDArray[np.uint8], thresholds: dict[str, Any]) -> list[Detections]:
        while (regions := self._shared) is not None:
            try:
                with regions.hold(frames) as shared:
                    return self._infer(name, contract.FRAME.name, shared, thresholds)
            except SharedMemoryForgotten:
                continue
            except SharedMemoryRefused:
                if self._must_share:
                    raise
                self._shared = None  # from now on they are sent
        return self._infer(name, contract.FRAME.name, frames, thresholds)

    def _infer(
        self, model: str, input_name: str, pictures: NDArray[Any] | SharedTensor, thresholds: dict[str, Any]
    ) -> list[Detections]:
        inputs: dict[str, NDArray[Any] | SharedTensor] = {input_name: pictures}
        for name, value in thresholds.items():
            inputs[name] = np.full((pictures.shape[0], 1), value)
        outputs = self.transport.infer(model, inputs, _OUTPUTS)
        names = self.class_names
        results = []
        for i, n in enumerate(outputs[contract.NUM_DETECTIONS.name][:, 0]):
            labels = outputs[contract.LABELS.name][i, :n].copy()
            results.append(
                Detections(
                    boxes_xyxy=outputs[contract.BOXES.name][i, :n].copy(),
                    scores=outputs[contract.SCORES.name][i, :n].copy(),
                    labels=labels,
                    names=tuple(names[label] for label in labels),
                )
            )
        return results

    def _describe(self, entry: dict[str, str]) -> Model:
        name, version = entry["name"], entry.get("version", "")
        state = entry.get("state", "UNAVAILABLE")
        config = self.transport.model_config(name, version) if state == "READY" else {}
        return Model(
            name=name,
            version=version,
            state=state,
            reason=entry.get("reason", ""),
            platform=config.get("platform") or config.get("backend", ""),
            max_batch_size=int(config.get("max_batch_size", 0)),
            parameters=contract.read_parameters(config),
        )

    def _find(self) -> Model:
        if self._name is not None:
            return self.named(self._name)
        found = [model for model in self.models() if model.detects]
        if len(found) == 1:
            return found[0]
        address = self.transport.address
        if not found:
            raise ModelUnavailable(f"{address} serves no YOLO-NAS model. Build one with: nas-build --weights demo")
        names = ", ".join(model.name for model in found)
        raise ModelUnavailable(f"{address} serves {len(found)} models: {names}. Choose one with --model.")

    def _no_such_model(self, name: str) -> ModelUnavailable:
        hint = ""
        parts = name.split("_")
        if len(parts) == 4 and name == contract.model_name(parts[2], parts[3]):
            hint = f" Build it with: nas-build --variant {parts[2]} --precision {parts[3]}"
        return ModelUnavailable(f"{name}: no such model on {self.transport.address}. {self._served()}{hint}")

    def _served(self) -> str:
        try:
            names = [model.name for model in self.models() if model.detects]
        except AdminKeyMissing:
            return "Which it serves, it tells only to who has its admin key."
        return f"It serves {', '.join(names) or 'no YOLO-NAS model'}."


def load(picture: Picture) -> bytes | NDArray[np.uint8]:
    """What is sent for a picture: encoded bytes, or the frame itself.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if the array is not (H, W, 3) uint8.
    """
    if isinstance(picture, bytes):
        return picture
    if isinstance(picture, str | Path):
        return Path(picture).read_bytes()
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or picture.size == 0:
        raise ValueError(f"expected an RGB picture (H, W, 3) uint8, got {picture.shape} {picture.dtype}")
    return picture


def _batches(pictures: list[bytes | NDArray[np.uint8]], size: int) -> Iterator[list[bytes | NDArray[np.uint8]]]:
    """In order: encoded pictures together, and frames of one shape."""
    for _, group in groupby(pictures, lambda picture: picture.shape if isinstance(picture, np.ndarray) else None):
        alike = list(group)
        yield from (alike[i : i + size] for i in range(0, len(alike), size))


def _thresholds(score: float | None, iou: float | None, most: int | None) -> dict[str, Any]:
    given = {
        contract.SCORE_THRESHOLD.name: None if score is None else np.float32(score),
        contract.IOU_THRESHOLD.name: None if iou is None else np.float32(iou),
        contract.MAX_DETECTIONS.name: None if most is None else np.int32(most),
    }
    return {name: value for name, value in given.items() if value is not None}
