from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import orjson
from sqlalchemy.exc import IntegrityError
from starlette.routing import Route

from serving.access.grant import Scope
from serving.access.keyring import Keyring
from serving.dashscope import schema, tasklist, translate
from serving.dashscope.messages import Form
from serving.dashscope.rendering import Rendering
from serving.dashscope.translate import Rules, Translated
from serving.dialects import NATIVE
from serving.endpoint import Call, Endpoint
from serving.engine.base import Engine
from serving.errors import AccessDenied, NotPending, Overloaded, ServingError
from serving.generation import Timeline
from serving.jobline import logged
from serving.jobs.job import Failure, Job, NewJob, State
from serving.jobs.notices import Hook
from serving.jobs.queue import Queue
from serving.jobs.tables import jobs
from serving.settings import Settings
from serving.webhooks.callbacks import Callbacks

KIND = "task"
SCOPES: tuple[Scope, ...] = ("tasks",)
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
TIMEOUT_MS = 3 * 3600 * 1000
"""The cloud gives up a task that has no result after three hours."""
RETRY_AFTER = 8
"""Seconds, the most that clients heed: a place among so many comes no sooner."""


def routes(tasks: Tasks, keyring: Keyring) -> list[Route]:
    """Each with and without a slash at its end: of the official client one half sends it, and follows no redirect."""
    served = [
        ("/api/v1/tasks", Endpoint(tasks.list, keyring, NATIVE, methods=("GET",), scopes=("tasks",))),
        ("/api/v1/tasks/{id}", Endpoint(tasks.get, keyring, NATIVE, methods=("GET",), scopes=("tasks",))),
        ("/api/v1/tasks/{id}/cancel", Endpoint(tasks.cancel, keyring, NATIVE, scopes=("tasks",))),
    ]
    return [Route(path + slash, endpoint) for path, endpoint in served for slash in ("", "/")]


class Tasks:
    """Chat calls that are answered later: accepted, run in the background, asked for by their id.

    A key sees its own tasks only; those of others are as unknown as those that never were.
    """

    def __init__(
        self, queue: Queue, engine: Engine, keyring: Keyring, settings: Settings, callbacks: Callbacks | None = None
    ) -> None:
        self._queue = queue
        self._callbacks = callbacks or Callbacks(settings)
        self._engine = engine
        self._keyring = keyring
        self._rules = Rules.of(settings)
        self._output_text = settings.output_text
        self._max_waiting = settings.max_waiting_tasks
        self._max_bytes = settings.max_waiting_bytes
        self.keep_ms = round(settings.task_retention * 1000)

    async def submit(self, call: Call, form: Form, body: bytes) -> bytes:
        """Accepts a body that has been checked. It is on the disk before the client is told."""
        if not call.caller.grant.scopes.issuperset(SCOPES):
            raise AccessDenied("This API key lacks the scope tasks.")
        waiting = await self._queue.waiting(KIND, call.caller.key_id, self._max_waiting)
        if waiting >= self._max_waiting:
            raise Overloaded(retry_after=RETRY_AFTER)
        held = await self._queue.waiting_bytes(KIND, call.caller.key_id) if waiting else 0
        if held and held + len(body) > self._max_bytes:
            raise Overloaded(retry_after=RETRY_AFTER)
        details = {"form": form, "request_id": call.exchange.request_id, "resolve_oss": wants_oss(call)}
        deadline = self._queue.clock() + TIMEOUT_MS
        hooks = self._hooks(call)
        job = NewJob(KIND, call.caller, body, call.model, details, deadline=deadline, hooks=hooks)
        if call.claim is not None:
            job = replace(job, id=call.claim)
        try:
            await self._queue.submit(job)
        except IntegrityError:  # an earlier try of the same request has come so far
            if call.claim is None:
                raise
        output = {"task_status": State.PENDING, "task_id": job.id}
        return orjson.dumps({"output": output, "request_id": call.exchange.request_id})

    def _hooks(self, call: Call) -> tuple[Hook, ...]:
        """The header is an extension: the cloud tells of tasks in its console's own ways."""
        url = call.exchange.header("x-homescope-callback")
        if url:
            self._callbacks.check(url)
        return self._callbacks.hooks(call.caller.key_id, url)

    async def run(self, job: Job) -> bytes:
        """The answer, byte for byte as the call would have been given it that had waited, but for the request id."""
        with logged(job) as run:
            translated = await self._read(job, run.timeline)
            question = replace(translated.generation, priority="background")
            run.images = len(question.images)
            async with aclosing(self._engine.generate(question)) as chunks:
                async for chunk in chunks:
                    run.add(chunk)
        return Rendering.of(translated, job.details["form"], output_text=self._output_text).whole(run.answer)

    async def _read(self, job: Job, timeline: Timeline) -> Translated:
        return translate.to_generation(
            schema.parse(await self._queue.payload(job.id)),
            job.details["form"],
            self._rules,
            request_id=job.id,
            caller=await self._keyring.now(job.caller),
            timeline=timeline,
            resolve_oss=job.details["resolve_oss"],
        )

    def failure(self, error: ServingError) -> Failure:
        return Failure.of(error)

    async def group_ended(self, group: str) -> None:
        """Tasks are in no group."""

    async def get(self, call: Call) -> None:
        task_id = call.exchange.path_params["id"]
        job = await self._queue.get(task_id) if UUID.fullmatch(task_id) else None
        if job is None or not self._shown(job, call):
            body: Mapping[str, Any] = {"output": {"task_id": task_id, "task_status": "UNKNOWN"}}
        else:
            body = state(job, await self._queue.result(job.id))
        await call.exchange.answer(200, orjson.dumps({"request_id": call.exchange.request_id, **body}))

    def _shown(self, job: Job, call: Call) -> bool:
        mine = job.kind == KIND and job.caller.key_id == call.caller.key_id
        return mine and (job.ended_at is None or job.ended_at > self._queue.clock() - self.keep_ms)

    async def cancel(self, call: Call) -> None:
        """Whatever the body is: clients send none, or one that says nothing."""
        task_id = call.exchange.path_params["id"]
        if not UUID.fullmatch(task_id) or not await self._queue.cancel(KIND, task_id, call.caller.key_id):
            raise NotPending
        await call.exchange.answer(200, orjson.dumps({"request_id": call.exchange.request_id}))

    async def list(self, call: Call) -> None:
        now = self._queue.clock()
        wanted = tasklist.read(call.exchange.query, now)
        mine = [jobs.c.kind == KIND, jobs.c.caller_id == call.caller.key_id]
        kept = jobs.c.ended_at.is_(None) | (jobs.c.ended_at > now - self.keep_ms)
        total, found = await self._queue.page(*mine, kept, *wanted.where(), offset=wanted.offset, limit=wanted.size)
        body = tasklist.page(wanted, total, found) | {"request_id": call.exchange.request_id}
        await call.exchange.answer(200, orjson.dumps(body))


def wants_oss(call: Call) -> bool:
    return call.exchange.header("x-dashscope-ossresourceresolve").lower() == "enable"


def state(job: Job, result: bytes) -> dict[str, Any]:
    """What is told of a task; `result` is the body of the answer to one that succeeded."""
    output = tasklist.output(job)
    if not job.state.final:
        output["task_metrics"] = {"TOTAL": 1, "SUCCEEDED": 0, "FAILED": 0}
    if job.state is not State.SUCCEEDED:
        return {"output": output}
    answer = orjson.loads(result)
    return {"output": output | answer["output"], "usage": answer["usage"]}
