"""What is told when work that was handed in has ended: jobs of their own, made in the transaction that ends it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

from serving.generation import Caller
from serving.jobs.job import Job, NewJob

KIND = "webhook"


class Hook(NamedTuple):
    """A URL that is to be told, and whose secret signs it."""

    url: str
    owner: str


def of(event: str, data: Mapping[str, Any], hooks: Iterable[Hook], caller: Caller, now: int) -> list[NewJob]:
    """A notice for each hook. `event` like "task.succeeded"; `now` in epoch ms, the moment that it is about."""
    moment = datetime.fromtimestamp(now / 1e3, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    body = {"type": event, "timestamp": moment, "data": dict(data)}
    return [NewJob(KIND, caller, details={"url": url, "owner": owner, "body": body}) for url, owner in hooks]


def of_job(job: Job, hooks: Iterable[Hook], now: int) -> list[NewJob]:
    """What it was asked and answered is not told: who has the key asks for it."""
    data = {
        "task_id": job.id,
        "task_status": job.state,
        "request_id": job.details.get("request_id"),
        "model": job.model,
    }
    if job.failure is not None:
        data |= {"code": job.failure.code, "message": job.failure.message}
    return of(f"{job.kind}.{job.state.lower()}", data, hooks, job.caller, now)
