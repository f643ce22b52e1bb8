"""Draining an engine: on the operators' port and from the command line, for every process, over restarts."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner

from serving.app import create_app
from serving.cli import main
from serving.engine.drained import Drained
from serving.engine.pool import Pool
from serving.server import listen, url_of
from serving.settings import Settings
from tests.fakes import FakeEngine
from tests.serving.conftest import listening

URLS = ("http://a:8000", "http://b:8000")


@pytest.mark.ring3
async def test_an_engine_is_drained_and_taken_back_on_the_operators_port(tmp_path: Path) -> None:
    settings = Settings(data=tmp_path)
    operators = listen("127.0.0.1", 0)
    pool = Pool(URLS, lambda _: FakeEngine(), drained=Drained(tmp_path).read, look_every=0.01)
    async with (
        listening(create_app(settings, pool, operators=operators)),
        httpx.AsyncClient(base_url=url_of(operators), timeout=30) as client,
    ):

        async def until(*draining: bool) -> None:
            async with asyncio.timeout(20):
                while [each["draining"] for each in await listed()] != list(draining):  # noqa: ASYNC110
                    await asyncio.sleep(0.01)

        async def listed() -> list[dict[str, object]]:
            found: list[dict[str, object]] = (await client.get("/replicas")).json()["replicas"]
            return found

        await until(False, False)
        assert (await listed())[0] == {
            "url": URLS[0],
            "ready": True,
            "draining": False,
            "breaker": "closed",
            "in_flight": 0,
        }
        assert (await client.post("/replicas/drain", params={"url": URLS[1]})).json()["draining"] is True
        await until(False, True)
        assert Drained(tmp_path).read() == {URLS[1]}
        await client.post("/replicas/restore", params={"url": URLS[1]})
        await until(False, False)
        refused = await client.post("/replicas/drain", params={"url": "http://c"})
        assert refused.status_code == 400
        assert all(url in refused.json()["message"] for url in URLS)
        assert (await client.get("/replicas/drain")).status_code == 404


async def test_a_drained_engine_is_so_after_a_restart(tmp_path: Path) -> None:
    Drained(tmp_path).add(URLS[0])
    pool = Pool(URLS, lambda _: FakeEngine(), drained=Drained(tmp_path).read)
    await pool.start()
    assert [replica.draining for replica in pool.replicas] == [True, False]
    await pool.aclose()


def test_the_command_line_drains(tmp_path: Path) -> None:
    env = {"HOMESCOPE_DATA": str(tmp_path), "HOMESCOPE_ENGINE_URLS": ",".join(URLS)}

    def run(*words: str) -> tuple[int, str]:
        done = CliRunner().invoke(main, ["replicas", *words], env=env)
        return done.exit_code, done.output

    assert run("drain", URLS[0])[0] == 0
    assert run("list")[1].splitlines()[1:] == [f"{URLS[0]}  drained", f"{URLS[1]}  in use"]
    assert run("restore", URLS[0])[0] == 0
    code, told = run("restore", URLS[0])
    assert (code, "is not drained" in told) == (2, True)
    code, told = run("drain", "http://c")
    assert (code, URLS[0] in told) == (2, True)


def test_two_that_write_at_once_lose_nothing(tmp_path: Path) -> None:
    urls = [f"http://{number}" for number in range(20)]
    threads = [threading.Thread(target=Drained(tmp_path).add, args=(url,)) for url in urls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Drained(tmp_path).read() == set(urls)


def test_what_cannot_be_read_drains_nothing(tmp_path: Path) -> None:
    assert Drained(tmp_path / "none").read() == frozenset()
