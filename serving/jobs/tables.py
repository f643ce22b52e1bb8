from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, BigInteger, Boolean, Column, Index, Integer, LargeBinary, Row, String, Table, Text

from serving.generation import Caller
from serving.jobs.job import Failure, Job, State
from serving.storage.database import metadata

jobs = Table(
    "jobs",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("kind", String(32), nullable=False),
    Column("caller_id", String(36), nullable=False),
    Column("caller_name", String(200), nullable=False),
    Column("model", String(200), nullable=False),
    Column("details", JSON, nullable=False),
    Column("group_id", String(64), nullable=True),
    Column("number", Integer, nullable=False),
    Column("state", String(9), nullable=False),
    Column("priority", Integer, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("submitted_at", BigInteger, nullable=False),
    Column("not_before", BigInteger, nullable=False),
    Column("scheduled_at", BigInteger, nullable=True),
    Column("ended_at", BigInteger, nullable=True),
    Column("deadline", BigInteger, nullable=True),
    Column("failure_status", Integer, nullable=True),
    Column("failure_code", String(100), nullable=True),
    Column("failure_message", Text, nullable=True),
    Column("lease", String(36), nullable=True),
    Column("lease_owner", String(36), nullable=True),
    Column("lease_until", BigInteger, nullable=True),
    Column("hooks", JSON(none_as_null=True), nullable=True),
)
Index(
    "jobs_next",  # the last two so that what is not due, or of others, is passed over without a look at the table
    jobs.c.state,
    jobs.c.caller_id,
    jobs.c.priority.desc(),
    jobs.c.submitted_at,
    jobs.c.number,
    jobs.c.kind,
    jobs.c.not_before,
)
Index("jobs_of_caller", jobs.c.kind, jobs.c.caller_id, jobs.c.state, jobs.c.submitted_at)
Index("jobs_of_group", jobs.c.group_id, jobs.c.state, jobs.c.number)

payloads = Table(
    "job_payloads",
    metadata,
    Column("job_id", String(36), primary_key=True),
    Column("data", LargeBinary, nullable=False),
)
results = Table(
    "job_results",
    metadata,
    Column("job_id", String(36), primary_key=True),
    Column("data", LargeBinary, nullable=False),
)
turns = Table(
    "job_turns",
    metadata,
    Column("caller_id", String(36), primary_key=True),
    Column("turn", BigInteger, nullable=False),
)
groups = Table(
    "job_groups",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("total", Integer, nullable=False),
    Column("succeeded", Integer, nullable=False),
    Column("failed", Integer, nullable=False),
    Column("canceled", Integer, nullable=False),
    Column("sealed", Boolean, nullable=False),
    Column("stopped", Boolean, nullable=False),
)


def job_of(row: Row[Any]) -> Job:
    """A row of `jobs` with all its columns."""
    failure = None
    if row.failure_code is not None:
        failure = Failure(row.failure_status, row.failure_code, row.failure_message)
    return Job(
        id=row.id,
        kind=row.kind,
        caller=Caller(row.caller_id, row.caller_name),
        model=row.model,
        details=row.details,
        group=row.group_id,
        number=row.number,
        state=State(row.state),
        priority=row.priority,
        attempts=row.attempts,
        submitted_at=row.submitted_at,
        scheduled_at=row.scheduled_at,
        ended_at=row.ended_at,
        deadline=row.deadline,
        failure=failure,
        lease=row.lease,
    )
