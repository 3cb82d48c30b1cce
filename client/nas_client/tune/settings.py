"""What is tuned of a served model: batch, delay and instances, in its config.pbtxt files."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from google.protobuf import text_format
from nas_ensembles import contract
from tritonclient.grpc import model_config_pb2 as pb

from ..errors import TuneError
from ..output.formats import write_atomic

_CONFIG = "config.pbtxt"


@dataclass(frozen=True)
class Settings:
    """Of a served model.

    Attributes:
        max_batch_size: of all its models.
        queue_delay_us: the engine waits so long for a batch to fill.
        instances: of the engine, on each GPU.
    """

    max_batch_size: int
    queue_delay_us: int
    instances: int

    def __str__(self) -> str:
        instances = f"{self.instances} instance{'s'[: self.instances > 1]}"
        return f"batch {self.max_batch_size}, delay {self.queue_delay_us / 1000:g} ms, {instances}"

    @classmethod
    def read(cls, repository: Path, name: str) -> Settings:
        """As a model has them.

        Raises:
            TuneError: there is no such model, or its engine is not one of nas-build's.
        """
        engine = _parse(repository / contract.stage_name(name, "engine") / _CONFIG)
        if not engine.instance_group:
            raise TuneError(f"{engine.name} has no instance_group; expected the config that nas-build writes")
        delay = engine.dynamic_batching.max_queue_delay_microseconds
        return cls(engine.max_batch_size, delay, engine.instance_group[0].count)

    def write(self, repository: Path, name: str) -> None:
        """Into all five configs, each replaced as a whole; the rest of them stays.

        Raises:
            TuneError: one cannot be read or written.
        """
        texts = {}
        for model in _all_of(name):
            path = repository / model / _CONFIG
            config = _parse(path)
            self._change(config, is_engine=model == contract.stage_name(name, "engine"))
            texts[path] = text_format.MessageToString(config, as_utf8=True)
        for path, text in texts.items():
            try:
                write_atomic(path, text.encode())
            except OSError as error:
                raise TuneError(f"{path}: cannot be written: {error.strerror}") from None

    def _change(self, config: pb.ModelConfig, is_engine: bool) -> None:
        config.max_batch_size = self.max_batch_size
        for warmup in config.model_warmup:
            warmup.batch_size = min(warmup.batch_size, self.max_batch_size)
        if is_engine:
            config.dynamic_batching.max_queue_delay_microseconds = self.queue_delay_us
            config.instance_group[0].count = self.instances


def models(repository: Path) -> list[str]:
    """Names of the models that nas-build has put there."""
    return sorted({path.parent.parent.name for path in repository.glob("*/*/manifest.json")})


@contextmanager
def copied(repository: Path, name: str) -> Iterator[Path]:
    """A repository of this model alone, to try settings in; large files are the same ones.

    Raises:
        TuneError: it cannot be read.
    """
    with tempfile.TemporaryDirectory(prefix=".nas-client-tune-", dir=_beside(repository)) as folder:
        os.chmod(folder, 0o755)  # a container's user reads it, too
        try:
            for model in _all_of(name):
                shutil.copytree(repository / model, Path(folder) / model, copy_function=_link)
        except (OSError, shutil.Error) as error:
            raise TuneError(f"{repository}: cannot be copied: {error}") from None
        yield Path(folder)


def _all_of(name: str) -> list[str]:
    return [*(contract.stage_name(name, stage) for stage in contract.STAGES), contract.frames_name(name), name]


def _beside(repository: Path) -> Path | None:
    """Where links to its files can be made; None if nothing can be written there."""
    parent = repository.absolute().parent
    return parent if os.access(parent, os.W_OK) else None


def _link(source: str, target: str) -> str:
    """All but configs, which are changed."""
    if Path(source).name != _CONFIG:
        try:
            os.link(source, target)
            return target
        except OSError:  # another file system
            pass
    return str(shutil.copy2(source, target))


def _parse(path: Path) -> pb.ModelConfig:
    try:
        return text_format.Parse(path.read_text(encoding="utf-8"), pb.ModelConfig())
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise TuneError(f"{path}: {reason}; expected a model that nas-build has built") from None
    except text_format.ParseError as error:
        raise TuneError(f"{path}: {error}") from None
