from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeAlias

from serving.errors import ServingError
from serving.generation import Caller

Clock: TypeAlias = Callable[[], int]
"""Says how many milliseconds have passed since the epoch. Leases outlive processes, so no monotonic clock will do."""


def wall_clock() -> int:
    return time.time_ns() // 1_000_000


class State(StrEnum):
    """PENDING and RUNNING may alternate; the others are final, and a job that has one keeps it."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELED = "CANCELED"

    @property
    def final(self) -> bool:
        return self not in (State.PENDING, State.RUNNING)


@dataclass(frozen=True, slots=True)
class NewJob:
    """Work to be done later.

    `kind` says by whom, `model` and `details` (small, of JSON) what can be known of it without reading `payload`.
    Those of higher `priority` run first, then those submitted first, then those of lower `number`. After `deadline`
    (epoch ms) a job is failed instead of run.
    """

    kind: str
    caller: Caller
    payload: bytes = b""
    model: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)
    priority: int = 0
    number: int = 0
    deadline: int | None = None
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    hooks: tuple[tuple[str, str], ...] = ()
    """Who is told of its end, as `serving.jobs.notices.Hook`s."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a job failed, as the client reads it."""

    status: int
    code: str
    message: str

    @classmethod
    def of(cls, error: ServingError) -> Failure:
        return cls(error.status, error.code, error.message)

    def __post_init__(self) -> None:
        """Messages quote clients; PostgreSQL has no null character in texts."""
        object.__setattr__(self, "message", self.message.replace("\0", ""))


@dataclass(frozen=True, slots=True)
class Job:
    """A job as it stands. Times in epoch ms; `scheduled_at` is when its latest run began.

    `lease` names the one run that may end the job; `attempts` counts the runs that were begun and not given back.
    """

    id: str
    kind: str
    caller: Caller
    model: str
    details: Mapping[str, Any]
    group: str | None
    number: int
    state: State
    priority: int
    attempts: int
    submitted_at: int
    scheduled_at: int | None
    ended_at: int | None
    deadline: int | None
    failure: Failure | None
    lease: str | None


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a group of jobs has come. A `sealed` one grows no more, and of a `stopped` one nothing more is begun."""

    total: int
    succeeded: int
    failed: int
    canceled: int
    sealed: bool
    stopped: bool

    @property
    def ended(self) -> bool:
        return self.sealed and self.succeeded + self.failed + self.canceled == self.total
