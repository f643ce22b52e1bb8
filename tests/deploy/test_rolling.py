"""An upgrade under load: gateways and engines are taken away and brought back one by one, and no request fails."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.deploy.processes import GATEWAY, Running, answers, start
from tests.ports import free_port
from tests.serving.conftest import PATH
from tests.serving.wire import chat

pytestmark = [pytest.mark.deploy, pytest.mark.timeout(300)]

CLIENTS = 6


class Fleet:
    """Two gateways over two engines, each at an address that it keeps, and a balancer that asks for readiness."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.engines = [free_port(), free_port()]
        self.gateways = [(free_port(), free_port()) for _ in range(2)]
        self.processes: dict[str, Running] = {}
        self.ready: set[int] = set()

    async def start_engine(self, number: int) -> None:
        port = self.engines[number]
        mock = ("-m", "benchmarks.mock_engine", "--port", str(port), "--pieces", "6", "--gap", "0.05")
        name = f"engine{number}"
        self.processes[name] = await start(self.folder / name, sys.executable, *mock)
        await answers(f"http://127.0.0.1:{port}/health", self.processes[name])

    async def start_gateway(self, number: int) -> None:
        port, operators = self.gateways[number]
        name = f"gateway{number}"
        environment = {
            "HOMESCOPE_DATA": str(self.folder / f"data{number}"),
            "HOMESCOPE_PORT": str(port),
            "HOMESCOPE_ADMIN_PORT": str(operators),
            "HOMESCOPE_ENGINE_URLS": ",".join(f"http://127.0.0.1:{engine}" for engine in self.engines),
            "HOMESCOPE_AUTH": "false",
            "HOMESCOPE_CACHE": "off",
            "HOMESCOPE_STOP_DELAY": "3",
            "HOMESCOPE_DRAIN_TIMEOUT": "60",
        }
        self.processes[name] = await start(self.folder / name, *GATEWAY, environment=environment)
        await answers(f"http://127.0.0.1:{operators}/readyz", self.processes[name])

    async def replace_engine(self, number: int) -> None:
        """As docs/deploy.md has it: drained at every gateway, stopped once it has nothing to do, started, restored."""
        url = f"http://127.0.0.1:{self.engines[number]}"
        await self._tell("drain", url)
        await self.processes[f"engine{number}"].stop()
        await self.start_engine(number)
        await self._tell("restore", url)

    async def _tell(self, what: str, url: str) -> None:
        """Returns when every gateway has done it, and the engine that is drained has nothing to do for any of them."""
        async with httpx.AsyncClient(trust_env=False, timeout=10) as client:
            for _, operators in self.gateways:
                base = f"http://127.0.0.1:{operators}/replicas"
                (await client.post(f"{base}/{what}", params={"url": url})).raise_for_status()
            for _, operators in self.gateways:
                while not settled((await client.get(f"http://127.0.0.1:{operators}/replicas")).json(), what, url):  # noqa: ASYNC110
                    await asyncio.sleep(0.1)

    async def balance(self) -> None:
        """What a Service's endpoints do: those that say they are ready are sent requests."""
        async with httpx.AsyncClient(trust_env=False, timeout=2) as client:
            while True:
                for port, operators in self.gateways:
                    try:
                        fine = (await client.get(f"http://127.0.0.1:{operators}/readyz")).status_code == 200
                    except httpx.TransportError:
                        fine = False
                    (self.ready.add if fine else self.ready.discard)(port)
                await asyncio.sleep(0.2)


def settled(told: dict[str, Any], what: str, url: str) -> bool:
    (replica,) = [each for each in told["replicas"] if each["url"] == url]
    if what == "drain":
        return bool(replica["draining"]) and replica["in_flight"] == 0
    return not replica["draining"] and bool(replica["ready"])


@asynccontextmanager
async def fleet(folder: Path) -> AsyncGenerator[Fleet, None]:
    made = Fleet(folder)
    async with AsyncExitStack() as stack:
        try:
            for number in range(2):
                await made.start_engine(number)
            for number in range(2):
                await made.start_gateway(number)
            balancer = asyncio.create_task(made.balance())
            stack.callback(balancer.cancel)
            yield made
        finally:
            for process in made.processes.values():
                await process.stop()


class Load:
    """Clients that ask again as soon as they are answered."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.answered = 0
        self.failed: list[str] = []
        self.over = asyncio.Event()

    async def client(self, number: int) -> None:
        async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
            while not self.over.is_set():
                ready = sorted(self.fleet.ready)
                if not ready:
                    await asyncio.sleep(0.05)
                    continue
                # A connection for each: kept ones would stay with the gateway that is about to go.
                url = f"http://127.0.0.1:{ready[(self.answered + number) % len(ready)]}{PATH}"
                try:
                    answer = await client.post(url, json=chat(), headers={"connection": "close"})
                except httpx.TransportError as error:
                    self.failed.append(f"{url}: {error!r}")
                    continue
                self.answered += 1
                if answer.status_code != 200 or answer.json()["output"]["choices"][0]["finish_reason"] != "stop":
                    self.failed.append(f"{url}: {answer.status_code} {answer.text[:200]}")

    async def more(self, count: int) -> None:
        """Returns when so many more were answered."""
        until = self.answered + count
        while self.answered < until:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def test_no_request_fails_while_everything_is_replaced(tmp_path: Path) -> None:
    async with fleet(tmp_path) as everything:
        load = Load(everything)
        async with asyncio.TaskGroup() as clients:
            for number in range(CLIENTS):
                clients.create_task(load.client(number))
            await load.more(20)
            try:
                for number in range(2):
                    await everything.replace_engine(number)
                    await load.more(20)
                for number in range(2):
                    assert await everything.processes[f"gateway{number}"].stop() == 0
                    await everything.start_gateway(number)
                    await load.more(20)
            finally:
                load.over.set()
        assert load.failed == []
        assert load.answered >= 100
