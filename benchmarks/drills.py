"""What happens to requests when things break under load: before, during and after.

    engine-killed    the engine's process is killed, and started again
    engine-stalled   the engine holds every answer for a while
    throttled        the engine refuses everything with 429, a storm of retries is what comes back
    slow-images      the images' host answers after seconds; whoever sends images inside requests must not notice
    hang-ups         half of the clients leave after their first piece of text

Each runs homescope before a mock engine in processes of their own, offers a constant load, breaks something for the
middle third, reports before, during and after apart, and judges what it expects of homescope (benchmarks/findings.py).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace

import aiohttp

from benchmarks.arrivals import constant
from benchmarks.dialects import DIALECTS
from benchmarks.findings import (
    Expectation,
    Finding,
    Leftovers,
    Seen,
    engine_stops,
    fine_before,
    found,
    linked_answered,
    none_failed,
    others_unharmed,
    permits_return,
    refused_quickly,
    stall_shows,
    told_to_come_back,
    well_again,
)
from benchmarks.generator import Plan, Target
from benchmarks.processes import free_port, homescope, mock_engine, state, turn
from benchmarks.run import Open, Outcome, load
from benchmarks.workload import Ask, Workload

_SLOW_HOST_S = 5.0
_LEFT_WITHIN_S = 5.0


@dataclass
class Scene:
    """What a drill can break. `engine` is restarted on the same port; `knobs` are its command line.

    `operators` is the address of the gateway's metrics.
    """

    url: str
    operators: str
    key: str
    engine: str
    stack: AsyncExitStack
    knobs: Sequence[str]

    async def kill_engine(self) -> None:
        await self.stack.aclose()

    async def start_engine(self) -> None:
        await self.stack.enter_async_context(mock_engine(*self.knobs, port=int(self.engine.rpartition(":")[2])))

    async def in_flight(self) -> int:
        """Generations that the gateway has given to the engine."""
        async with aiohttp.ClientSession() as session, session.get(f"{self.operators}/metrics") as response:
            lines = (await response.text()).splitlines()
        return int(float(next(line.split()[1] for line in lines if line.startswith("homescope_in_flight "))))

    async def leftovers(self) -> Leftovers:
        """Once there are none, or after some seconds."""
        began = time.monotonic()
        while True:
            gateway, engine = await self.in_flight(), await state(self.engine)
            seconds = time.monotonic() - began
            if gateway == engine["open"] == 0 or seconds > _LEFT_WITHIN_S:
                return Leftovers(gateway, engine["open"], engine["left"], seconds)
            await asyncio.sleep(0.1)


@dataclass(frozen=True)
class Drill:
    """One way to break things: `begin` and `end` at the borders of the middle third.

    Attributes:
        knobs: of the mock engine.
        limit: requests in flight at most; the others wait for a place in the generator.
        hang_up: share of the clients who leave, in the middle third.
        slow_images: a third of the images is behind a slow host's URL, in the middle third.
    """

    name: str
    begin: Callable[[Scene, float], Awaitable[None]]
    end: Callable[[Scene], Awaitable[None]]
    expectations: Sequence[Expectation]
    knobs: Sequence[str] = ("--ttft", "0.05", "--gap", "0.01", "--pieces", "20")
    limit: int | None = None
    hang_up: float = 0.0
    slow_images: bool = False


async def _nothing(scene: Scene, seconds: float = 0.0) -> None:
    return None


async def _kill(scene: Scene, seconds: float) -> None:
    await scene.kill_engine()


async def _stall(scene: Scene, seconds: float) -> None:
    await turn(scene.engine, stall=seconds)


async def _throttle(scene: Scene, seconds: float) -> None:
    await turn(scene.engine, error={"429": 1.0})


async def _unthrottle(scene: Scene) -> None:
    await turn(scene.engine, error={})


DRILLS = {
    each.name: each
    for each in (
        Drill("engine-killed", _kill, Scene.start_engine, (fine_before, refused_quickly, well_again)),
        # Two at a time, as from a pool of connections: others wait, which only the time from when they were due has.
        Drill(
            "engine-stalled",
            _stall,
            _nothing,
            (fine_before, none_failed, stall_shows, well_again),
            knobs=("--ttft", "0.005", "--gap", "0.001", "--pieces", "5"),
            limit=2,
        ),
        Drill("throttled", _throttle, _unthrottle, (fine_before, told_to_come_back, refused_quickly, well_again)),
        Drill(
            "slow-images",
            _nothing,
            _nothing,
            (fine_before, others_unharmed, linked_answered, well_again),
            slow_images=True,
        ),
        # Answers of a second, so that an engine which is not told goes on for long.
        Drill(
            "hang-ups",
            _nothing,
            _nothing,
            (fine_before, permits_return, engine_stops, well_again),
            knobs=("--ttft", "0.05", "--gap", "0.1", "--pieces", "10"),
            hang_up=0.5,
        ),
    )
}


async def drill(chosen: Drill, rate: float, seconds: float, seed: int = 0) -> tuple[Finding, Outcome]:
    """Runs one. Raises ValueError: the rate is so low that not one request was about in one of the thirds."""
    third = seconds / 3
    async with _scene(chosen.knobs) as scene, _images(chosen.slow_images, rate * third) as asks:
        target = Target(scene.url, DIALECTS["native-sse"], "qwen3-vl-30b", scene.key, name=f"drill {chosen.name}")
        plan = Plan(chosen.limit, 60, hang_up=chosen.hang_up, leaving=(third, 2 * third), seed=seed)
        breaking = asyncio.create_task(_break(chosen, scene, third))
        shape = Open(constant(rate, seconds), f"constant:{rate:g}")
        outcome = await load(target, asks(seed), shape, plan, {"drill": chosen.name, "seed": seed})
        await breaking
        leftovers = await scene.leftovers()
    return found(Seen(outcome.records, third, leftovers), chosen.expectations), outcome


async def _break(chosen: Drill, scene: Scene, third: float) -> None:
    await asyncio.sleep(third)
    await chosen.begin(scene, third)
    await asyncio.sleep(third)
    await chosen.end(scene)


@asynccontextmanager
async def _scene(knobs: Sequence[str]) -> AsyncGenerator[Scene, None]:
    async with AsyncExitStack() as engine, AsyncExitStack() as rest:
        url, _ = await engine.enter_async_context(mock_engine(*knobs, port=free_port()))
        port = free_port()
        settings = {"HOMESCOPE_FETCH_ALLOW": "127.0.0.1", "HOMESCOPE_ADMIN_PORT": str(port)}
        server, key, _ = await rest.enter_async_context(homescope(url, **settings))
        yield Scene(server, f"http://127.0.0.1:{port}", key, url, engine, knobs)


@asynccontextmanager
async def _images(slow: bool, third: float) -> AsyncGenerator[Callable[[int], Iterable[Ask]], None]:
    """Requests: images inside, and in a drill of slow images some behind a slow host's URL, `third` requests on."""
    if not slow:
        yield lambda seed: Workload("noise", 128, 128, seed=seed).asks()
        return
    server = await asyncio.start_server(_slowly, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        yield lambda seed: _mixed(Workload("noise", 128, 128, seed=seed), f"http://127.0.0.1:{port}", third)


def _mixed(workload: Workload, host: str, third: float) -> Iterator[Ask]:
    for number, ask in enumerate(workload.asks()):
        linked = tuple(picture.behind(f"{host}/{number}.png") for picture in ask.images)
        slow = third <= number < 2 * third and number % 3 == 0
        yield replace(ask, images=linked, name="linked") if slow else ask


_PICTURE = next(Workload("chart", 128, 128).asks()).images[0].data


async def _slowly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A host of images that thinks for seconds."""
    try:
        await reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(_SLOW_HOST_S)
        head = f"HTTP/1.1 200 OK\r\ncontent-type: image/png\r\ncontent-length: {len(_PICTURE)}\r\n\r\n"
        writer.write(head.encode() + _PICTURE)
        await writer.drain()
    except (ConnectionError, asyncio.IncompleteReadError):
        pass
    finally:
        writer.close()
