"""The models of a server, and the one to detect with."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from nas_ensembles import contract

from ..errors import AdminKeyMissing, ModelUnavailable
from ..transport import Transport


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


class Models:
    """Of one server, asked anew each time.

    Args:
        transport: to the server.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def all(self) -> list[Model]:
        """Every model in the server's repository, in order of name.

        Raises:
            AdminKeyMissing: if the server tells that only to who has its key.
        """
        return sorted((self._describe(entry) for entry in self._transport.index()), key=lambda model: model.name)

    def named(self, name: str) -> Model:
        """A model that detects.

        Raises:
            ModelUnavailable: if there is none of this name, or it is of another kind; says which there are.
        """
        try:
            model = self._describe({"name": name, "state": "READY"})
        except ModelUnavailable as error:
            hint = ""
            parts = name.split("_")
            if len(parts) == 4 and name == contract.model_name(parts[2], parts[3]):
                hint = f" Build it with: nas-build --variant {parts[2]} --precision {parts[3]}"
            raise ModelUnavailable(
                f"{name}: no such model on {self._transport.address}. {self._served()}{hint}"
            ) from error
        if not model.detects:
            raise ModelUnavailable(
                f"{model.name} on {self._transport.address} is no YOLO-NAS ensemble of nas-triton: its config has "
                f"no {contract.CLASS_NAMES}. {self._served()}"
            )
        return model

    def only(self) -> Model:
        """The one that detects.

        Raises:
            ModelUnavailable: if there is none, or there are several to choose from.
        """
        found = [model for model in self.all() if model.detects]
        if len(found) == 1:
            return found[0]
        address = self._transport.address
        if not found:
            raise ModelUnavailable(f"{address} serves no YOLO-NAS model. Build one with: nas-build --weights demo")
        names = ", ".join(model.name for model in found)
        raise ModelUnavailable(f"{address} serves {len(found)} models: {names}. Choose one with --model.")

    def _describe(self, entry: dict[str, str]) -> Model:
        name, version = entry["name"], entry.get("version", "")
        state = entry.get("state", "UNAVAILABLE")
        config = self._transport.model_config(name, version) if state == "READY" else {}
        return Model(
            name=name,
            version=version,
            state=state,
            reason=entry.get("reason", ""),
            platform=config.get("platform") or config.get("backend", ""),
            max_batch_size=int(config.get("max_batch_size", 0)),
            parameters=contract.read_parameters(config),
        )

    def _served(self) -> str:
        try:
            names = [model.name for model in self.all() if model.detects]
        except AdminKeyMissing:
            return "Which it serves, it tells only to who has its admin key."
        return f"It serves {', '.join(names) or 'no YOLO-NAS model'}."
