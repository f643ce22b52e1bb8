from __future__ import annotations

import asyncio
import errno
import json
import logging
import os
import sys
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from starlette.routing import Router

from serving import logs
from serving.access.grant import Grant
from serving.access.keys import KeyStore
from serving.app import create_app
from serving.errors import GenerationFailed
from serving.settings import Settings
from serving.storage import database, objects
from serving.storage.objects import ObjectNotFound
from serving.storage.records.record import Picture, Record
from serving.storage.records.recorder import Recorder, export
from serving.storage.records.spool import Spool
from tests.fakes import FakeEngine
from tests.serving.conftest import PATH
from tests.serving.storage.postgres import fresh_database
from tests.serving.test_cli import assert_one_clear_line, homescope
from tests.serving.wire import chat, data_uri, picture, user

ASKED = "what about 11010519491231002X, asks canary-question"


@pytest.fixture
def settings(settings: Settings, request: pytest.FixtureRequest) -> Settings:
    return settings.model_copy(update={"records": "originals", **getattr(request, "param", {})})


async def kept(settings: Settings) -> list[dict[str, Any]]:
    """What is in the database once the server has stopped."""
    engine = database.at(settings.data)
    try:
        return [record async for record in export(engine, 0, 1 << 62)]
    finally:
        await database.close(engine)


async def key_with(settings: Settings, grant: Grant) -> str:
    engine = database.at(settings.data)
    await database.create_tables(engine, settings.data)
    try:
        return await KeyStore(engine).create("kept", grant)
    finally:
        await database.close(engine)


@asynccontextmanager
async def serving(app: Router, secret: str) -> AsyncGenerator[httpx.AsyncClient, None]:
    headers = {"authorization": f"Bearer {secret}"}
    async with (
        app.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test", headers=headers) as client,
    ):
        yield client


async def ask_once(settings: Settings, engine: FakeEngine, grant: Grant) -> dict[str, Any]:
    secret = await key_with(settings, grant)
    async with serving(create_app(settings, engine), secret) as client:
        await client.post(PATH, json=chat(user({"image": data_uri(picture())}, ASKED)))
    (record,) = await kept(settings)
    return record


async def test_a_record_says_who_asked_what_and_was_answered_what(settings: Settings, engine: FakeEngine) -> None:
    engine.enqueue("canary", "-answer", image_tokens=6)
    record = await ask_once(settings, engine, Grant())
    assert (record["key_name"], record["model"], record["outcome"]) == ("kept", "qwen3-vl-30b", "ok")
    assert (record["input_tokens"], record["output_tokens"], record["image_tokens"]) == (10, 2, 6)
    assert 0 <= record["first_chunk_ms"] <= record["total_ms"]
    assert json.loads(record["question"])[0]["content"] == [{"image": "data:"}, {"text": ASKED}]
    assert json.loads(record["answer"]) == [{"text": "canary-answer", "finish_reason": "stop"}]
    (image,) = record["pictures"]
    assert (image["format"], image["width"], image["height"]) == ("PNG", 64, 48)
    assert (settings.data / "objects" / image["object"]).read_bytes() == picture()


async def test_of_a_key_without_content_none_is_kept(settings: Settings, engine: FakeEngine) -> None:
    record = await ask_once(settings, engine, Grant(keep_content=False))
    assert (record["question"], record["answer"], record["pictures"]) == (None, None, [])
    assert record["images"] == 1
    assert not (settings.data / "objects" / "originals").exists()


async def test_what_a_key_wants_blacked_out_is_never_written(settings: Settings, engine: FakeEngine) -> None:
    engine.enqueue("card 6222 0202 0001 1122 334 is yours")
    record = await ask_once(settings, engine, Grant(redact=("cn-id", "card", "canary-[a-z]+")))
    assert json.loads(record["question"])[0]["content"][1]["text"] == "what about [redacted], asks [redacted]"
    assert json.loads(record["answer"])[0]["text"] == "card [redacted] is yours"
    assert record["pictures"][0]["object"] is None
    assert b"11010519491231002X" not in b"".join(path.read_bytes() for path in settings.data.rglob("homescope.db*"))


async def test_what_fails_has_a_record_too(settings: Settings, engine: FakeEngine) -> None:
    engine.enqueue(error=GenerationFailed())
    record = await ask_once(settings, engine, Grant())
    assert (record["outcome"], record["output_tokens"]) == ("InternalError.Algo", 0)
    assert len(record["pictures"]) == 1


@pytest.fixture
def _root_logger() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level


@pytest.mark.usefixtures("_root_logger")
async def test_nothing_of_a_request_reaches_the_log(
    settings: Settings, engine: FakeEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    """Prompts, answers, keys and image bytes, at the most talkative level."""
    secret = await key_with(settings, Grant())
    image = data_uri(picture())
    logs.set_up("text", "debug")
    async with serving(create_app(settings, engine), secret) as client:
        engine.enqueue("canary-answer")
        await client.post(PATH, json=chat(user({"image": image}, ASKED)))
        engine.enqueue("canary-answer", error=RuntimeError("a defect"))
        await client.post(PATH, json=chat(user({"image": image}, ASKED)), headers={"x-dashscope-sse": "enable"})
        await client.post(PATH, json=chat(user({"image": image[:-20]}, ASKED)))
        await client.post(PATH, json=chat(user(ASKED)), headers={"authorization": f"Bearer {secret}x"})
        await client.post("/v1/chat/completions", json={"model": "canary-question", "messages": ASKED})
    said = capsys.readouterr().err
    assert "a defect" in said
    for canary in ("canary-question", "canary-answer", "11010519491231002X", secret, secret[11:], image[40:80]):
        assert canary not in said


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the kernel answers when there is no room left: half of a line is written, and then nothing."""
    write = os.write

    def write_less(file: int, data: bytes) -> int:
        if data.startswith(b'{"id":'):
            if len(data) > 60:
                return write(file, data[:50])
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(file, data)

    monkeypatch.setattr(os, "write", write_less)


@pytest.mark.usefixtures("full_disk")
@pytest.mark.parametrize(
    ("settings", "status"),
    [({"records_required": True}, 503), ({"records_required": False}, 200)],
    indirect=["settings"],
)
async def test_on_a_full_disk_an_answer_is_refused_or_the_loss_is_told(
    settings: Settings, engine: FakeEngine, caplog: pytest.LogCaptureFixture, status: int
) -> None:
    secret = await key_with(settings, Grant())
    async with serving(create_app(settings, engine), secret) as client:
        assert (await client.post(PATH, json=chat())).status_code == status
    assert await kept(settings) == []
    assert "is lost: the disk is full" in caplog.text
    assert list((settings.data / "records").iterdir()) == []


async def test_records_wait_while_the_database_is_away(settings: Settings, engine: FakeEngine, tmp_path: Path) -> None:
    secret = await key_with(settings, Grant())
    async with serving(create_app(settings, engine), secret) as client:
        await client.post(PATH, json=chat())
        held = database.at(settings.data)
        async with held.connect() as connection:
            await connection.exec_driver_sql("BEGIN IMMEDIATE")
            assert (await client.post(PATH, json=chat())).status_code == 200
            (spool,) = (settings.data / "records").glob("*.jsonl")
            assert spool.stat().st_size > 0
            await connection.rollback()
        await database.close(held)
    assert len(await kept(settings)) == 2


@pytest.mark.ring3
@pytest.mark.parametrize("backend", ["sqlite", "postgresql"])
async def test_what_a_killed_server_left_behind_is_found_by_the_next(
    backend: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """The child says each record it has been promised, with its database out of reach, until it is killed."""
    url = None if backend == "sqlite" else await fresh_database(request.getfixturevalue("postgres"))
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CHILD, str(tmp_path), stdout=asyncio.subprocess.PIPE
    )
    assert child.stdout
    promised = {(await child.stdout.readline()).decode().strip() for _ in range(200)}
    child.kill()
    await child.wait()
    promised |= set((await child.stdout.read()).decode().split("\n")[:-1])
    (spool,) = (tmp_path / "records").glob("*.jsonl")
    with spool.open("ab") as file:
        file.write(b'{"id":"broken off in the mid')
    engine = database.at(tmp_path, url)
    await database.create_tables(engine, tmp_path)
    for _ in range(2):
        await Recorder(engine, None, tmp_path / "records", days=1).adopt()
    found = [record["request_id"] async for record in export(engine, 0, 1 << 62)]
    await database.close(engine)
    assert promised <= set(found)
    assert len(found) == len(set(found))


CHILD = """
import asyncio, itertools, pathlib, sys, uuid
from serving.storage import database
from serving.storage.records.record import Record
from serving.storage.records.recorder import Recorder
from serving.storage.records.spool import Spool

folder = pathlib.Path(sys.argv[1])
recorder = Recorder(database.at(folder, "postgresql://127.0.0.1:9/none"), None, folder / "records", days=1)
recorder._spool = Spool.new(folder / "records")
for number in itertools.count():
    recorder.add(Record(str(uuid.uuid4()), f"r{number}", 1, "k", "k", "m", "interactive", False, "ok", 1, 1, None, None,
                        0, None, None, 1.0, question="x" * 500))
    print(f"r{number}", flush=True)
"""


@pytest.mark.parametrize("backend", ["sqlite", pytest.param("postgresql", marks=pytest.mark.ring3)])
async def test_old_records_go_with_their_originals(
    backend: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    url = None if backend == "sqlite" else await fresh_database(request.getfixturevalue("postgres"))
    engine, store = database.at(tmp_path, url), objects.at(None, tmp_path)
    await database.create_tables(engine, tmp_path)
    await store.start()
    now = [1_800_000_000.0]
    recorder = Recorder(engine, store, tmp_path / "records", days=2, clock=lambda: now[0])
    for at, name in ((now[0], "originals/a"), (now[0] + 3 * 86_400, "originals/b")):
        await store.put(name, whole(b"image"))
        image = Picture("d", "PNG", 1, 1, 5, name)
        line = Record(name, name, int(at * 1000), "k", "k", "m", "interactive", False, "ok", 1, 1, None, None, 1, None,
                      None, 1.0, question="\x01", pictures=(image,))  # fmt: skip
        spool = Spool.new(tmp_path / "records")
        spool.append(msgspec.json.encode(line))
        await recorder.drain(spool)
        spool.close()
    assert await recorder.sweep() == 0
    now[0] += 3 * 86_400
    assert await recorder.sweep() == 1
    assert [record["id"] async for record in export(engine, 0, 1 << 62)] == ["originals/b"]
    with pytest.raises(ObjectNotFound):
        await store.size("originals/a")
    assert await store.size("originals/b") == 5
    await database.close(engine)
    await store.aclose()


async def whole(data: bytes) -> AsyncGenerator[bytes, None]:
    yield data


def test_records_are_exported_by_command(settings: Settings) -> None:
    asyncio.run(ask_once(settings, FakeEngine(), Grant()))
    done = homescope(settings.data, "records", "export", "--since", "2026-01-01")
    (line,) = done.stdout.splitlines()
    assert json.loads(line)["question"][0]["role"] == "user"
    assert homescope(settings.data, "records", "export", "--until", "2026-01-01").stdout == ""
    assert_one_clear_line(
        homescope(settings.data, "records", "export", "--since", "then"), "--since then", "2026-11-01"
    )
