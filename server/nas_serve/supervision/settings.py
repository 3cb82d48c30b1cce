"""What the supervisor is told."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field

from ..front.front import Front

VARIABLE = "NAS_SUPERVISE"
KEY = "@TRITON_KEY@"  # in the command: the key itself would be for all users of the machine to read


@dataclass(frozen=True)
class Settings:
    """What to keep running, as JSON in the environment: secrets in it are for this user only, as arguments are not.

    Attributes:
        command: tritonserver and its arguments.
        front: where clients come in.
        model_repository: that Triton is given; known answers lie there.
        log: file for the servers' output; None is standard error.
        remove: files and folders that are removed when it was told to end; after a failure the log is wanted.
        shm_prefix: of regions to remove, in /dev/shm.
        lifeline: end when standard input closes.
        may_reload: models come and go (a polled repository), so that a process that ends may be no accident.
        start_s: for the server to become ready.
        drain_s: for requests under way to be answered at the end.
        grace_s: for the server to end after that.
        state: folder of the files for `status.Probes`.
        built: the model repository as it was built, if the one that is served is a view of it, made at every start.
        models: of it, those that are served; all if empty.
        public_key: see `integrity`, which looks before every start.
        watch: wait for a first model, and start again when models were built or taken away.
    """

    command: list[str]
    front: Front
    model_repository: str
    log: str | None = None
    remove: list[str] = field(default_factory=list)
    shm_prefix: str | None = None
    lifeline: bool = False
    may_reload: bool = False
    start_s: float = 600.0
    drain_s: float = 30.0
    grace_s: float = 10.0
    state: str | None = None
    built: str | None = None
    models: list[str] = field(default_factory=list)
    public_key: str | None = None
    watch: bool = False

    def to_json(self) -> str:
        """For the environment, as `VARIABLE`."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Settings:
        """Undo `to_json`."""
        values = json.loads(text)
        return cls(**{**values, "front": Front.from_dict(values["front"])})
