from __future__ import annotations

import base64
from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import orjson
from starlette.routing import Route

from serving.access.grant import Scope
from serving.access.keyring import Keyring
from serving.dashscope.links import Links
from serving.dashscope.paging import page
from serving.dialects import NATIVE
from serving.endpoint import Call, Endpoint
from serving.errors import FileQuotaExceeded, FileTooLarge, MalformedBody, ServingError
from serving.multipart import Form, Part, text
from serving.settings import Settings
from serving.storage.files import File, Files
from serving.storage.objects import ObjectTooLarge, Stored

CLOUD_TIME = timezone(timedelta(hours=8))
PURPOSE = "fine-tune"
"""Of a file that is sent without one, as the SDK does."""
FILES_AT_ONCE = 10
FIELD_BYTES = 4096
PURPOSE_CHARS = 64
IDLE_S = 60.0
REGION = "local"


def routes(files: Files, links: Links, keyring: Keyring, settings: Settings) -> list[Route]:
    endpoints = FileEndpoints(files, links, settings)
    scopes: tuple[Scope, ...] = ("files",)
    collection = Endpoint(endpoints.collection, keyring, NATIVE, methods=("GET", "POST"), scopes=scopes)
    item = Endpoint(endpoints.item, keyring, NATIVE, methods=("GET", "DELETE"), scopes=scopes)
    return [
        *(Route(f"/api/v1/files{slash}", collection) for slash in ("", "/")),
        *(Route(f"/api/v1/files/{{file}}{slash}", item) for slash in ("", "/")),
    ]


class FileEndpoints:
    """Files in the native form: /api/v1/files."""

    def __init__(self, files: Files, links: Links, settings: Settings) -> None:
        self._files = files
        self._links = links
        self._settings = settings

    async def collection(self, call: Call) -> None:
        await (self._create(call) if call.exchange.method == "POST" else self._list(call))

    async def item(self, call: Call) -> None:
        file_id, owner = call.exchange.path_params["file"], call.caller.key_id
        if call.exchange.method == "DELETE":
            await self._files.delete(file_id, owner)
            await _answer(call)
            return
        file = await self._files.get(file_id, owner)
        await _answer(call, {**await self._shown(call, file), "purpose": file.purpose})

    async def _list(self, call: Call) -> None:
        number, size = page(call.exchange.query)
        total, files = await self._files.page(call.caller.key_id, number, size)
        shown = [await self._shown(call, file) for file in files]
        await _answer(call, {"total": total, "files": shown, "page_size": size, "page_no": number})

    async def _create(self, call: Call) -> None:
        async with aclosing(call.exchange.chunks(IDLE_S)) as chunks:
            form = Form(call.exchange.header("content-type"), chunks)
            sent = _Sent(self._files, call.caller.key_id, self._settings.max_upload_bytes)
            try:
                await sent.read(form)
                uploaded = await sent.add()
            finally:
                await sent.discard()
        await _answer(call, {"uploaded_files": uploaded, "failed_uploads": sent.failed})

    async def _shown(self, call: Call, file: File) -> dict[str, Any]:
        origin = self._settings.public_url or call.exchange.origin
        return {
            "id": file.number,
            "name": file.name,
            "description": file.description,
            "size": file.size,
            "md5": base64.b64encode(file.md5).decode(),
            "region": REGION,
            "file_id": file.id,
            "url": await self._links.to(file, origin),
            "user_id": file.owner,
            "api_key_id": file.owner,
            "gmt_create": _cloud_time(file.created_at),
        }


class _Sent:
    """What a form brings. Files are stored as they come; texts may stand before or after them."""

    def __init__(self, files: Files, owner: str, limit: int) -> None:
        self.failed: list[dict[str, str]] = []
        self._files = files
        self._owner = owner
        self._limit = limit
        self._count = 0
        self._received: list[tuple[int, str, Stored]] = []
        self._descriptions: list[str] = []
        self._purpose = PURPOSE

    async def read(self, form: Form) -> None:
        """Raises `MalformedBody`, also for a form without a file."""
        async with aclosing(form.fields()) as fields:
            async for part, pieces in fields:
                if part.name == "files":
                    await self._receive(part, pieces)
                elif part.name == "descriptions":
                    self._descriptions.append(await text(pieces, FIELD_BYTES))
                elif part.name == "purpose":
                    self._purpose = await text(pieces, PURPOSE_CHARS) or PURPOSE
                else:
                    await text(pieces, FIELD_BYTES)
        if not self._count:
            raise MalformedBody("The form has no field 'files'.")

    async def add(self) -> list[dict[str, str]]:
        """Makes files of what was received; what there is no room for joins `failed`."""
        uploaded = []
        while self._received:
            number, name, stored = self._received.pop(0)
            description = self._descriptions[number] if number < len(self._descriptions) else ""
            try:
                file = await self._files.add(
                    stored, owner=self._owner, name=name, purpose=self._purpose, description=description
                )
            except FileQuotaExceeded as error:
                self._fail(name, error)
            else:
                uploaded.append({"name": file.name, "file_id": file.id})
        return uploaded

    async def discard(self) -> None:
        for _, _, stored in self._received:
            await self._files.discard(stored)

    async def _receive(self, part: Part, pieces: AsyncGenerator[bytes, None]) -> None:
        name = part.filename or "file"
        number, self._count = self._count, self._count + 1
        if number >= FILES_AT_ONCE:
            raise FileQuotaExceeded(f"{FileQuotaExceeded.message} At most {FILES_AT_ONCE} files can be sent at once.")
        try:
            stored = await self._files.receive(pieces, self._limit, owner=self._owner)
        except ObjectTooLarge as error:
            self._fail(name, FileTooLarge(error.limit))
        except FileQuotaExceeded as error:
            self._fail(name, error)
        else:
            self._received.append((number, name, stored))

    def _fail(self, name: str, error: ServingError) -> None:
        self.failed.append({"name": name, "code": error.code, "message": error.message})


async def _answer(call: Call, data: dict[str, Any] | None = None) -> None:
    body = {} if data is None else {"data": data}
    await call.exchange.answer(200, orjson.dumps({**body, "request_id": call.exchange.request_id}))


def _cloud_time(moment: datetime) -> str:
    """Wall time of UTC+8 without a zone, as the cloud writes it."""
    return moment.replace(tzinfo=UTC).astimezone(CLOUD_TIME).strftime("%Y-%m-%d %H:%M:%S")
