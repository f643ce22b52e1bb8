from __future__ import annotations

import asyncio
import re
from dataclasses import asdict
from typing import Any

import msgspec
import orjson
from msgspec import Struct

from serving import decoding
from serving.access.grant import GENERATION
from serving.compatible.batch import trial
from serving.compatible.batch.life import Lives
from serving.compatible.batch.record import ACTIVE, CALLBACK, MOMENTS, Batch, Records, Status, Wanted
from serving.compatible.query import limit, moment
from serving.endpoint import Call
from serving.errors import AccessDenied, Alias, FileMissing, InvalidRequest, QuotaExceeded, RequestTimeout
from serving.jobs.groups import Groups
from serving.storage.files import Files
from serving.webhooks.callbacks import Callbacks

ENDPOINT = "/v1/chat/completions"
PURPOSE = "batch"
WINDOW = re.compile(r"(\d{1,4})([hd])")
WINDOW_HOURS = (24, 336)
MAX_BODY = 1 << 20
BODY_WITHIN = 60.0
"""Seconds."""
RETRY_AFTER = 8
"""Seconds, the most that clients heed; a batch ends later."""
MAX_EXTRA = 16
MAX_EXTRA_CHARS = 512
PAGE = 20
MAX_PAGE = 100


class _Create(Struct):
    input_file_id: str | None = None
    endpoint: str | None = None
    completion_window: str | None = None
    metadata: dict[str, str] | None = None


_decoder = msgspec.json.Decoder(_Create)


class UnsupportedState(InvalidRequest):
    """Raised for what cannot be done with a batch that has come so far."""

    code = "UnsupportedOperation"
    alias = Alias("invalid_request_error")


class Batches:
    """The endpoints of batches; what becomes of them is led elsewhere."""

    def __init__(
        self, records: Records, lives: Lives, groups: Groups, files: Files, callbacks: Callbacks, *, most: int
    ) -> None:
        """`most` batches of one key may not have ended."""
        self._most = most
        self._callbacks = callbacks
        self._records = records
        self._lives = lives
        self._groups = groups
        self._files = files

    async def collection(self, call: Call) -> None:
        await (self._create(call) if call.exchange.method == "POST" else self._list(call))

    async def get(self, call: Call) -> None:
        await self._answer(call, await self._find(call))

    async def cancel(self, call: Call) -> None:
        batch = await self._find(call)
        if batch.status not in (Status.VALIDATING, Status.IN_PROGRESS, Status.CANCELLING, Status.CANCELLED):
            raise UnsupportedState(f"Cannot cancel a batch with status '{batch.status}'.")
        await self._records.move(batch.id, [Status.VALIDATING, Status.IN_PROGRESS], Status.CANCELLING)
        self._lives.tell(batch.id)
        await self._answer(call, await self._find(call))

    async def _create(self, call: Call) -> None:
        if call.caller.grant.scopes.isdisjoint(GENERATION):
            raise AccessDenied(f"A batch is answered with the scope {' or '.join(sorted(GENERATION))}, too.")
        with decoding.refusing():
            wire = _decoder.decode(await _body(call))
        window = _window(wire.completion_window)
        if wire.endpoint not in (ENDPOINT, trial.ENDPOINT):
            message = f"The provided url '{(wire.endpoint or '')[:80]}' is not supported by the Batch API."
            raise InvalidRequest(message, param="endpoint")
        input_file_id = await self._input(call, wire.input_file_id, wire.endpoint)
        if await self._records.active(call.caller.key_id) >= self._most:
            raise QuotaExceeded(f"This API key has {self._most} batches that have not ended.", retry_after=RETRY_AFTER)
        batch = await self._records.create(
            call.caller,
            endpoint=wire.endpoint,
            input_file_id=input_file_id,
            window=window,
            extra=self._extra(wire.metadata),
            claim=call.claim,
        )
        self._lives.lead(batch.id)
        await self._answer(call, batch)

    def _extra(self, given: dict[str, str] | None) -> dict[str, str] | None:
        extra = _extra(given)
        if extra and extra.get(CALLBACK):
            self._callbacks.check(extra[CALLBACK], "metadata")
        return extra

    async def _input(self, call: Call, file_id: str | None, endpoint: str) -> str:
        if not file_id or "\0" in file_id:
            raise InvalidRequest("Missing required parameter: 'input_file_id'.", param="input_file_id")
        try:
            file = await self._files.get(file_id, call.caller.key_id)
        except FileMissing:
            message = f"The input file '{file_id[:80]}' does not exist."
            raise InvalidRequest(message, param="input_file_id") from None
        if file.purpose != PURPOSE:
            message = f"The purpose of the input file must be '{PURPOSE}', not '{file.purpose}'."
            raise InvalidRequest(message, param="input_file_id")
        if endpoint == trial.ENDPOINT and file.size > trial.MAX_BYTES:
            message = f"The input file of a test is limited to {trial.MAX_BYTES} bytes, got {file.size}."
            raise InvalidRequest(message, param="input_file_id")
        return file_id

    async def _list(self, call: Call) -> None:
        query = call.exchange.query
        wanted = Wanted(
            status=query.get("status") or None,
            name=query.get("ds_name") or None,
            inputs=tuple(name for name in query.get("input_file_ids", "").split(",") if name),
            since=moment(query, "create_after"),
            until=moment(query, "create_before"),
        )
        size = limit(query, PAGE, MAX_PAGE)
        found, more = await self._records.page(call.caller.key_id, query.get("after") or None, size, wanted)
        body = {
            "object": "list",
            "data": [await self._to_json(batch) for batch in found],
            "first_id": found[0].id if found else None,
            "last_id": found[-1].id if found else None,
            "has_more": more,
        }
        await call.exchange.answer(200, orjson.dumps(body))

    async def _find(self, call: Call) -> Batch:
        return await self._records.get(call.exchange.path_params["batch"], call.caller.key_id)

    async def _answer(self, call: Call, batch: Batch) -> None:
        await call.exchange.answer(200, orjson.dumps(await self._to_json(batch)))

    async def _to_json(self, batch: Batch) -> dict[str, Any]:
        progress = await self._groups.progress(batch.id) if batch.status in ACTIVE else None
        completed = progress.succeeded if progress is not None else batch.completed
        failed = progress.failed if progress is not None else batch.failed
        values = asdict(batch)
        return {
            "id": batch.id,
            "object": "batch",
            "endpoint": batch.endpoint,
            "errors": None if batch.errors is None else {"object": "list", "data": batch.errors},
            **{name: values[name] for name in ("input_file_id", "completion_window", "status")},
            **{name: values[name] for name in ("output_file_id", "error_file_id", "created_at", *MOMENTS)},
            "request_counts": {"total": batch.total, "completed": completed, "failed": failed},
            "metadata": batch.extra,
        }


async def _body(call: Call) -> bytes:
    try:
        async with asyncio.timeout(BODY_WITHIN):
            return await call.exchange.body(MAX_BODY)
    except TimeoutError:
        raise RequestTimeout from None


def _window(given: str | None) -> tuple[str, int]:
    """As written, and in seconds."""
    match = WINDOW.fullmatch(given or "")
    hours = int(match[1]) * (24 if match[2] == "d" else 1) if match else 0
    least, most = WINDOW_HOURS
    if not least <= hours <= most:
        shown = (given or "")[:80]
        message = f"completion_window should be between '{least}h' and '{most}h' (or in days), got '{shown}'."
        raise InvalidRequest(message, param="completion_window")
    return given or "", hours * 3600


def _extra(given: dict[str, str] | None) -> dict[str, str] | None:
    if given and (len(given) > MAX_EXTRA or max(map(len, (*given, *given.values()))) > MAX_EXTRA_CHARS):
        message = f"metadata is limited to {MAX_EXTRA} pairs of at most {MAX_EXTRA_CHARS} characters each."
        raise InvalidRequest(message, param="metadata")
    if given and any("\0" in text for pair in given.items() for text in pair):
        raise InvalidRequest("metadata contains a null character.", param="metadata")
    return given
