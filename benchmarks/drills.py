"""What happens to requests when things break under load: before, during and after.

    engine-killed    the engine's process is killed, and started again
    engine-stalled   the engine holds every answer for a while
    throttled        the engine refuses everything with 429, a storm of retries is what comes back
    slow-images      the images' host answers after seconds; whoever sends images inside requests must not notice
    hang-ups         half of the clients leave after their first piece of text

Each runs homescope before a mock engine in processes of their own, offers a constant load, breaks something for the
middle third, and reports the three thirds apart, and how long after the repair all was well again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.arrivals import constant
from benchmarks.dialects import DIALECTS
from benchmarks.generator import Plan, Target
from benchmarks.processes import free_port, homescope, mock_engine, turn
from benchmarks.record import Record
from benchmarks.report import Objective, Report, report
from benchmarks.run import Open, Outcome, load
from benchmarks.workload import Ask, Workload

_ENGINE = ("--ttft", "0.05", "--gap", "0.01", "--pieces", "20")


@dataclass
class Scene:
    """What a drill can break. `engine` is restarted on the same port."""

    url: str
    key: str
    engine: str
    stack: AsyncExitStack

    async def kill_engine(self) -> None:
        await self.stack.aclose()

    async def start_engine(self) -> None:
        await self.stack.enter_async_context(mock_engine(*_ENGINE, port=int(self.engine.rpartition(":")[2])))


@dataclass(frozen=True)
class Drill:
    """One way to break things: `begin` and `end` at the borders of the middle third."""

    name: str
    begin: Callable[[Scene, float], Awaitable[None]]
    end: Callable[[Scene], Awaitable[None]]
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
        Drill("engine-killed", _kill, Scene.start_engine),
        Drill("engine-stalled", _stall, _nothing),
        Drill("throttled", _throttle, _unthrottle),
        Drill("slow-images", _nothing, _nothing, slow_images=True),
        Drill("hang-ups", _nothing, _nothing, hang_up=0.5),
    )
}


@dataclass(frozen=True)
class Finding:
    """A drill's thirds, and the seconds from the repair to the last bad answer; None: it was never well again."""

    before: Report
    during: Report
    after: Report
    recovered_s: float | None

    def to_dict(self) -> dict[str, Any]:
        thirds = {"before": self.before, "during": self.during, "after": self.after}
        return {"recovered_s": self.recovered_s, **{name: third.to_dict() for name, third in thirds.items()}}


async def drill(chosen: Drill, rate: float, seconds: float, seed: int = 0) -> tuple[Finding, Outcome]:
    """Runs one."""
    third = seconds / 3
    async with _scene() as scene, _images(chosen.slow_images, scene) as asks:
        target = Target(scene.url, DIALECTS["native-sse"], "qwen3-vl-30b", scene.key, name=f"drill {chosen.name}")
        breaking = asyncio.create_task(_break(chosen, scene, third))
        shape = Open(constant(rate, seconds), f"constant:{rate:g}")
        outcome = await load(
            target, asks(seed), shape, Plan(timeout=60, hang_up=chosen.hang_up, seed=seed), {"drill": chosen.name}
        )
        await breaking
    return found(outcome.records, third), outcome


async def _break(chosen: Drill, scene: Scene, third: float) -> None:
    await asyncio.sleep(third)
    await chosen.begin(scene, third)
    await asyncio.sleep(third)
    await chosen.end(scene)


def found(records: Sequence[Record], third: float) -> Finding:
    """The three thirds by the intended start, and the recovery."""
    objective = Objective({"e2e": 2.0})
    thirds: list[list[Record]] = [[], [], []]
    for record in records:
        thirds[min(2, int(record.intended / 1e9 / third))].append(record)
    before, during, after = (report(each, objective=objective) for each in thirds)
    bad = [
        record.intended / 1e9 - 2 * third
        for record in thirds[2]
        if not (objective.met(record) or record.outcome == "HungUp")
    ]
    last = max((record.intended / 1e9 - 2 * third for record in thirds[2]), default=0.0)
    recovered = max(bad, default=0.0)
    return Finding(before, during, after, None if bad and recovered >= last else recovered)


@asynccontextmanager
async def _scene() -> AsyncGenerator[Scene, None]:
    async with AsyncExitStack() as engine, AsyncExitStack() as rest:
        port = free_port()
        url, _ = await engine.enter_async_context(mock_engine(*_ENGINE, port=port))
        server, key, _ = await rest.enter_async_context(homescope(url, HOMESCOPE_FETCH_ALLOW="127.0.0.1"))
        yield Scene(server, key, url, engine)


@asynccontextmanager
async def _images(slow: bool, scene: Scene) -> AsyncGenerator[Callable[[int], Iterable[Ask]], None]:
    """Requests: images inside, and in a drill of slow images every third one behind a slow host's URL."""
    if not slow:
        yield lambda seed: Workload("noise", 128, 128, seed=seed).asks()
        return
    server = await asyncio.start_server(_slowly, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        yield lambda seed: _mixed(Workload("noise", 128, 128, seed=seed), f"http://127.0.0.1:{port}")


def _mixed(workload: Workload, host: str) -> Iterator[Ask]:
    for number, ask in enumerate(workload.asks()):
        linked = tuple(picture.behind(f"{host}/{number}.png") for picture in ask.images)
        yield replace(ask, images=linked, name="linked") if number % 3 == 0 else ask


_PICTURE = next(Workload("chart", 128, 128).asks()).images[0].data


async def _slowly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A host of images that thinks for five seconds."""
    try:
        await reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(5)
        head = f"HTTP/1.1 200 OK\r\ncontent-type: image/png\r\ncontent-length: {len(_PICTURE)}\r\n\r\n"
        writer.write(head.encode() + _PICTURE)
        await writer.drain()
    except (ConnectionError, asyncio.IncompleteReadError):
        pass
    finally:
        writer.close()
