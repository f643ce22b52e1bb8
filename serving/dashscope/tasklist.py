"""The list of tasks: which ones are wanted, and how they are written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

from sqlalchemy import ColumnElement

from serving.errors import InvalidRequest
from serving.jobs.job import Job
from serving.jobs.tables import jobs

BEIJING = timezone(timedelta(hours=8))
"""The cloud's wall times are of this zone, without saying so."""
WINDOW_MS = 24 * 3600 * 1000
MAX_PAGE_SIZE = 100
MAX_PAGE = 1_000_000
REGION = "local"
STATUSES = ("PENDING", "RUNNING", "SUSPENDED", "SUCCEEDED", "FAILED", "CANCELED", "UNKNOWN")


def wall_time(moment: int) -> str:
    """Epoch ms as the cloud writes times of tasks."""
    return datetime.fromtimestamp(moment / 1e3, BEIJING).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]


def output(job: Job) -> dict[str, Any]:
    """A task as it is told of, but for its answer."""
    written: dict[str, Any] = {
        "task_id": job.id,
        "task_status": job.state,
        "submit_time": wall_time(job.submitted_at),
    }
    for name, moment in (("scheduled_time", job.scheduled_at), ("end_time", job.ended_at)):
        if moment is not None:
            written[name] = wall_time(moment)
    if job.failure is not None:
        written |= {"code": job.failure.code, "message": job.failure.message}
    return written


@dataclass(frozen=True, slots=True)
class Wanted:
    """A page of the tasks submitted from `since` to `until`, in epoch ms, that match; what is empty matches all."""

    since: int
    until: int
    page: int
    size: int
    status: str
    task_id: str
    model: str
    key_id: str

    @property
    def offset(self) -> int:
        return (self.page - 1) * self.size

    def where(self) -> list[ColumnElement[bool]]:
        filters = (
            (jobs.c.state, self.status),
            (jobs.c.id, self.task_id),
            (jobs.c.model, self.model),
            (jobs.c.caller_id, self.key_id),
        )
        in_window = jobs.c.submitted_at.between(self.since, self.until)
        return [in_window, *(column == value for column, value in filters if value)]


def read(query: Mapping[str, str], now: int) -> Wanted:
    """`region` is not looked at, as there is one. Raises `InvalidRequest`."""
    since, until = _window(query.get("start_time", ""), query.get("end_time", ""), now)
    status = query.get("status", "")
    if status and status not in STATUSES:
        raise InvalidRequest(f"status is one of {', '.join(STATUSES)}, got {status[:80]!r}")
    return Wanted(
        since,
        until,
        page=_number(query, "page_no", 1, MAX_PAGE),
        size=_number(query, "page_size", 10, MAX_PAGE_SIZE),
        status=status,
        task_id=query.get("task_id", ""),
        model=query.get("model_name", ""),
        key_id=query.get("api_key_id", ""),
    )


def _window(start: str, end: str, now: int) -> tuple[int, int]:
    """A day, unless both ends are given: the last one, or that from or to the end that is given."""
    since, until = _moment("start_time", start), _moment("end_time", end)
    if until is None:
        until = now if since is None else since + WINDOW_MS
    else:
        until += 999  # given to the second, which is meant to its end
    if since is None:
        since = until - WINDOW_MS
    if since > until:
        raise InvalidRequest(f"start_time {start} is later than end_time {end}")
    if until - since > WINDOW_MS + 999:
        hours = (until - since) / 3_600_000
        raise InvalidRequest(f"The time from start_time to end_time is limited to 24 hours, got {hours:.1f}")
    return since, until


def _moment(name: str, value: str) -> int | None:
    """Epoch ms of `YYYYMMDDhhmmss`."""
    if not value:
        return None
    try:
        if len(value) != 14 or not value.isascii() or not value.isdigit():
            raise ValueError
        return round(datetime.strptime(value, "%Y%m%d%H%M%S").replace(tzinfo=BEIJING).timestamp() * 1e3)
    except (ValueError, OverflowError):
        raise InvalidRequest(f"{name} is written YYYYMMDDhhmmss, got {value[:80]!r}") from None


def _number(query: Mapping[str, str], name: str, default: int, limit: int) -> int:
    value = query.get(name, "")
    if not value:
        return default
    if value.isascii() and value.isdigit() and len(value) < 10 and 1 <= int(value) <= limit:
        return int(value)
    raise InvalidRequest(f"Range of {name} should be [1, {limit}], got {value[:80]}")


def page(wanted: Wanted, total: int, found: Sequence[Job]) -> dict[str, Any]:
    """In `data` as the cloud has them; in `tasks` as the second generation of its Python client reads them, which takes
    no numbers for times."""
    return {
        "total": total,
        "data": [_entry(job) for job in found],
        "tasks": [output(job) | {"model_name": job.model} for job in found],
        "total_page": -(-total // wanted.size),
        "page_no": wanted.page,
        "page_size": wanted.size,
    }


def _entry(job: Job) -> dict[str, Any]:
    """Times in epoch ms. There are no accounts beside the keys, so a key is its own caller."""
    path = "multimodal-generation" if job.details["form"] == "multimodal" else "text-generation"
    times = {"gmt_create": job.submitted_at, "start_time": job.scheduled_at, "end_time": job.ended_at}
    return {
        "api_key_id": job.caller.key_id,
        "caller_parent_id": job.caller.key_id,
        "caller_uid": job.caller.key_id,
        "model_name": job.model,
        "region": REGION,
        "request_id": job.details["request_id"],
        "status": job.state,
        "task_id": job.id,
        "user_api_unique_key": f"apikey:v1:aigc:{path}:generation:{job.model}",
        **{name: moment for name, moment in times.items() if moment is not None},
    }
