from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import orjson

from serving import multipart
from serving.compatible.query import limit, moment
from serving.endpoint import Call
from serving.errors import Alias, BodyTooLarge, FileMissing, InvalidRequest, MalformedBody
from serving.multipart import Form
from serving.storage.files import File, Files, Wanted
from serving.storage.objects import ObjectTooLarge, Stored

PURPOSES = {"batch": "batch", "file-extract": "fe", "fine-tune": "ft"}
"""Those that can be given, and how the ids of such files begin after `file-`."""
MAX_FILE_BYTES = 500 << 20
MAX_FIELD_BYTES = 1024
IDLE = 60.0
"""Seconds for which nothing may come of a body."""
PAGE = 10_000


class NoSuchFile(InvalidRequest):
    """Raised for the id of no file, or of another key's."""

    alias = Alias("not_found", status=404)

    def __init__(self, id: str) -> None:  # noqa: A002
        super().__init__(f"No such File object: {id[:80]}", param="id")


class FileEndpoints:
    """Files in the OpenAI form. They are the same files that the native protocol shows."""

    def __init__(self, files: Files) -> None:
        self._files = files

    async def collection(self, call: Call) -> None:
        await (self._create(call) if call.exchange.method == "POST" else self._list(call))

    async def item(self, call: Call) -> None:
        file = await self._find(call)
        if call.exchange.method != "DELETE":
            await call.exchange.answer(200, orjson.dumps(to_json(file)))
            return
        await self._files.delete(file.id, file.owner)
        await call.exchange.answer(200, orjson.dumps({"id": file.id, "object": "file", "deleted": True}))

    async def content(self, call: Call) -> None:
        file = await self._find(call)
        headers = {
            "content-length": str(file.size),
            "content-disposition": f"attachment; filename*=UTF-8''{quote(file.name)}",
        }
        async with aclosing(self._files.read(file)) as pieces:
            await call.exchange.download(200, pieces, headers, content_type=b"application/octet-stream")

    async def _find(self, call: Call) -> File:
        file_id = call.exchange.path_params["file"]
        try:
            return await self._files.get(file_id, call.caller.key_id)
        except FileMissing:
            raise NoSuchFile(file_id) from None

    async def _create(self, call: Call) -> None:
        async with aclosing(call.exchange.chunks(IDLE)) as chunks:
            sent = _Sent(self._files, call.caller.key_id, Form(call.exchange.header("content-type"), chunks))
            try:
                await sent.read()
                file = await self._add(call, sent)
            except BaseException:
                await sent.discard()
                raise
        await call.exchange.answer(200, orjson.dumps(to_json(file)))

    async def _add(self, call: Call, sent: _Sent) -> File:
        if sent.stored is None:
            raise InvalidRequest("Missing required parameter: 'file'.", param="file")
        if sent.purpose not in PURPOSES:
            names = " or ".join(f"'{name}'" for name in PURPOSES)
            raise InvalidRequest(f"'purpose' must be {names}", param="purpose")
        stored, sent.stored = sent.stored, None  # from here on it is no longer ours to discard
        return await self._files.add(
            stored,
            owner=call.caller.key_id,
            name=sent.name,
            purpose=sent.purpose,
            id=f"file-{PURPOSES[sent.purpose]}-{uuid.uuid4().hex}",
        )

    async def _list(self, call: Call) -> None:
        query = call.exchange.query
        wanted = Wanted(
            purpose=query.get("purpose") or None,
            since=_utc(moment(query, "create_after")),
            until=_utc(moment(query, "create_before")),
            ascending=query.get("order") == "asc",
        )
        after = query.get("after") or None
        try:
            found, more = await self._files.after(call.caller.key_id, after, limit(query, PAGE, PAGE), wanted)
        except FileMissing:
            raise NoSuchFile(after or "") from None
        body = {"object": "list", "data": [to_json(file) for file in found], "has_more": more}
        await call.exchange.answer(200, orjson.dumps(body))


class _Sent:
    """What a form brings: its file is stored as it comes, wherever it stands among the fields."""

    def __init__(self, files: Files, owner: str, form: Form) -> None:
        self.purpose = ""
        self.name = ""
        self.stored: Stored | None = None
        self._files = files
        self._owner = owner
        self._form = form

    async def read(self) -> None:
        """Raises `BodyTooLarge` and `MalformedBody`."""
        async with aclosing(self._form.fields()) as fields:
            async for part, pieces in fields:
                if part.name == "file":
                    await self._receive(part.filename or "file", pieces)
                elif part.name == "purpose":
                    self.purpose = await multipart.text(pieces, MAX_FIELD_BYTES)

    async def discard(self) -> None:
        if self.stored is not None:
            await self._files.discard(self.stored)

    async def _receive(self, name: str, pieces: AsyncGenerator[bytes, None]) -> None:
        if self.stored is not None:
            raise MalformedBody("It has more than one file.")
        self.name = name
        try:
            self.stored = await self._files.receive(pieces, MAX_FILE_BYTES, owner=self._owner)
        except ObjectTooLarge as error:
            raise BodyTooLarge(error.limit) from None


def to_json(file: File) -> dict[str, Any]:
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.size,
        "filename": file.name,
        "purpose": file.purpose,
        "status": "processed",
        "created_at": int(file.created_at.replace(tzinfo=UTC).timestamp()),
    }


def _utc(seconds: int | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None)
