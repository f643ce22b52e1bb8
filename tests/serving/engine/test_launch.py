import asyncio
import json
import os
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from serving.engine.launch import Launcher, Restarts
from serving.engine.plan import LaunchError, LaunchPlan
from serving.engine.progress import Progress, State

SCRIPT = Path(__file__).with_name("engine_process.py")
QUICK = Restarts(first_delay_s=0.01, max_delay_s=0.05, watch_every_s=0.05, silent_s=0.3, stop_within_s=5)
FATAL = "(EngineCore pid=7) ERROR 11-22 15:39:21 [core.py:9] ValueError: the weights do not fit the configuration"


class Watched:
    """A launcher on the scripted process, and everything it reported."""

    def __init__(self, folder: Path, starts: tuple[dict[str, Any], ...], restarts: Restarts, port: int) -> None:
        (folder / "starts.jsonl").write_text("\n".join(map(json.dumps, starts or ({},))))
        (folder / "config.json").write_text("{}")
        self.folder = folder
        self.reports: list[Progress] = []
        self._news = asyncio.Event()
        self.launcher = Launcher(
            LaunchPlan(
                (sys.executable, str(SCRIPT), str(folder)),
                str(folder),
                ("test",),
                10,
                "a test",
                modules=(),
            ),
            log_dir=folder / "logs",
            on_progress=self._note,
            port=port,
            restarts=restarts,
        )

    def _note(self, progress: Progress) -> None:
        self.reports.append(progress)
        self._news.set()

    async def until(self, *states: State) -> None:
        """Waits until the reports contain these states, in this order, and forgets all before them."""
        for state in states:
            while state not in [report.state for report in self.reports]:
                self._news.clear()
                await self._news.wait()
            del self.reports[: [report.state for report in self.reports].index(state) + 1]

    async def post(self, path: str) -> None:
        url = self.launcher.base_url.removesuffix("/v1") + path
        async with aiohttp.ClientSession() as session:
            with suppress(aiohttp.ClientError):  # it ends instead of answering, if asked to
                await session.post(url)

    def log_has_something(self) -> bool:
        return self.launcher.log.path.stat().st_size > 0

    @property
    def started(self) -> list[int]:
        return [int(pid) for pid in (self.folder / "started").read_text().split()]


@asynccontextmanager
async def launched(
    folder: Path, *starts: dict[str, Any], restarts: Restarts = QUICK, port: int = 0
) -> AsyncGenerator[Watched]:
    watched = Watched(folder, starts, restarts, port)
    try:
        await watched.launcher.start()
        yield watched
    finally:
        await watched.launcher.aclose()


def runs(pid: int) -> bool:
    """A zombie does not: where nobody reaps orphans it stays one for ever."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def eventually(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - another process changes it
        await asyncio.sleep(0.01)


@pytest.mark.ring3
async def test_reports_the_stages_of_a_start_and_is_ready(tmp_path: Path) -> None:
    log = ["(APIServer pid=1) INFO [api_utils.py:286] non-default args: {}", "noise", "x Starting to load model y..."]
    async with launched(tmp_path, {"log": log}) as engine:
        assert engine.reports[0].state is State.STARTING
        await engine.launcher.wait_ready(20)
        assert [report.message for report in engine.reports] == [
            "starting vLLM: a test",
            "reading the model's configuration",
            "loading the weights",
            "ready: a test",
        ]
        assert [report.elapsed_s for report in engine.reports] == sorted(report.elapsed_s for report in engine.reports)
    assert [report.state for report in engine.reports[-2:]] == [State.READY, State.STOPPED]
    assert engine.launcher.state is State.STOPPED


@pytest.mark.ring3
async def test_the_engine_asks_for_the_key_of_the_launcher(tmp_path: Path) -> None:
    async with launched(tmp_path) as engine, aiohttp.ClientSession() as session:
        await engine.launcher.wait_ready(20)
        async with session.get(f"{engine.launcher.base_url}/models") as refused:
            assert refused.status == 401
        key = {"authorization": f"Bearer {engine.launcher.api_key}"}
        async with session.get(f"{engine.launcher.base_url}/models", headers=key) as answer:
            assert answer.status == 200


@pytest.mark.ring3
async def test_starts_a_dead_engine_again_at_the_same_address(tmp_path: Path) -> None:
    async with launched(tmp_path, {"log": ["first"]}, {"log": ["second"]}) as engine:
        await engine.launcher.wait_ready(20)
        before = engine.launcher.base_url
        await engine.until(State.READY)
        await engine.post("/exit/3")
        await engine.until(State.RESTARTING, State.READY)
        await engine.launcher.wait_ready(20)
        assert engine.launcher.base_url == before
        assert (tmp_path / "logs" / "engine.log").read_text() == "second\n"
        assert (tmp_path / "logs" / "engine.1.log").read_text() == "first\n"


@pytest.mark.ring3
async def test_waiting_for_a_restart_is_waiting_for_readiness(tmp_path: Path) -> None:
    async with launched(tmp_path) as engine:
        await engine.launcher.wait_ready(20)
        os.kill(engine.started[0], signal.SIGKILL)
        await engine.until(State.RESTARTING)
        await engine.launcher.wait_ready(20)
        assert len(engine.started) == 2


@pytest.mark.ring3
async def test_gives_up_with_the_last_words_of_an_engine_that_never_starts(tmp_path: Path) -> None:
    consequence = "RuntimeError: Engine core initialization failed. See root cause above."
    async with launched(tmp_path, {"log": ["INFO fine", FATAL, consequence], "exit": 1}) as engine:
        with pytest.raises(LaunchError) as failure:
            await engine.launcher.wait_ready(20)
        assert engine.launcher.state is State.FAILED
        assert len(engine.started) == 2
    lines = str(failure.value).splitlines()
    assert lines[0] == "The engine died 2 times in a row: it stopped with exit code 1."
    assert lines[1] == "  ValueError: the weights do not fit the configuration"
    assert lines[2] == f"Its log: {tmp_path / 'logs' / 'engine.log'}"
    assert len(lines) == 3


@pytest.mark.ring3
async def test_does_not_try_again_what_cannot_help(tmp_path: Path) -> None:
    log = ["torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB."]
    async with launched(tmp_path, {"log": log, "exit": 1}) as engine:
        with pytest.raises(LaunchError, match=r"at its start: out of memory: .*\n  torch\.OutOfMemoryError: CUDA out"):
            await engine.launcher.wait_ready(20)
        assert len(engine.started) == 1


@pytest.mark.ring3
async def test_gives_up_on_an_engine_that_keeps_dying(tmp_path: Path) -> None:
    restarts = Restarts(first_delay_s=0.01, watch_every_s=0.05, give_up_after=2)
    async with launched(tmp_path, {}, {"exit": 4}, restarts=restarts) as engine:
        await engine.launcher.wait_ready(20)
        await engine.until(State.READY)
        await engine.post("/exit/3")
        await engine.until(State.FAILED)
        with pytest.raises(LaunchError, match="died 2 times in a row: it stopped with exit code 4"):
            await engine.launcher.wait_ready(20)


@pytest.mark.ring3
async def test_counts_anew_after_a_stable_time(tmp_path: Path) -> None:
    restarts = Restarts(first_delay_s=0.01, watch_every_s=0.05, give_up_after=2, stable_after_s=0)
    async with launched(tmp_path, restarts=restarts) as engine:
        for _ in range(3):
            await engine.until(State.READY)
            await engine.post("/exit/3")
            await engine.until(State.RESTARTING)
        await engine.launcher.wait_ready(20)


@pytest.mark.ring3
async def test_ends_an_engine_that_gives_no_sign_of_life(tmp_path: Path) -> None:
    async with launched(tmp_path) as engine:
        await engine.until(State.READY)
        await engine.post("/health/503")
        await engine.until(State.RESTARTING, State.READY)
        assert not runs(engine.started[0])


@pytest.mark.ring3
async def test_ends_a_start_that_hangs(tmp_path: Path) -> None:
    """Patience is of this one: a process that has not begun yet, or the second start, may take what it takes here."""
    async with launched(tmp_path, {"health": 503, "log": ["a"]}, {}) as engine:
        usual = engine.launcher.plan
        await eventually(engine.log_has_something)
        engine.launcher.plan = replace(usual, expected_start_s=0.1)
        await engine.until(State.RESTARTING)
        engine.launcher.plan = usual
        await engine.until(State.READY)
        assert not runs(engine.started[0])


@pytest.mark.ring3
async def test_a_start_that_takes_too_long_is_an_error_for_who_waits(tmp_path: Path) -> None:
    async with launched(tmp_path, {"health": 503}) as engine:
        with pytest.raises(LaunchError, match=r"not ready within 1 s \(a test\); its log: .*engine\.log"):
            await engine.launcher.wait_ready(1)


@pytest.mark.ring3
async def test_stops_what_does_not_listen_and_what_it_started(tmp_path: Path) -> None:
    restarts = Restarts(stop_within_s=0.2)
    async with launched(tmp_path, {"deaf": True, "child": True}, restarts=restarts) as engine:
        await engine.launcher.wait_ready(20)
        child = int((tmp_path / "child").read_text())
        assert runs(engine.started[0])
        assert runs(child)
    assert not runs(engine.started[0])
    assert not runs(child)


@pytest.mark.ring3
async def test_stops_while_it_starts(tmp_path: Path) -> None:
    async with launched(tmp_path, {"health": 503, "log": ["up"]}) as engine:
        await eventually(lambda: "up" in engine.launcher.log.tail())
        waiting = asyncio.create_task(engine.launcher.wait_ready(20))
        await asyncio.sleep(0)
        await engine.launcher.aclose()
        with pytest.raises(LaunchError, match="stopped"):
            await waiting
    assert not runs(engine.started[0])


PARENT = """
import asyncio, sys
from pathlib import Path
from serving.engine.launch import Launcher
from serving.engine.plan import LaunchPlan
async def main(folder):
    plan = LaunchPlan((sys.executable, sys.argv[2], folder), folder, ("test",), 1, "a test", modules=())
    launcher = Launcher(plan, log_dir=Path(folder) / "logs")
    await launcher.start()
    await launcher.wait_ready(20)
    print("ready", flush=True)
    await asyncio.sleep(60)
asyncio.run(main(sys.argv[1]))
"""


@pytest.mark.ring3
@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's help in this is Linux's own")
async def test_nothing_outlives_a_parent_that_was_killed(tmp_path: Path) -> None:
    (tmp_path / "starts.jsonl").write_text(json.dumps({"child": True, "deaf": True}))
    (tmp_path / "config.json").write_text("{}")
    parent = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PARENT, str(tmp_path), str(SCRIPT)),
        env=os.environ | {"TMPDIR": str(tmp_path)},
        stdout=asyncio.subprocess.PIPE,
    )
    assert parent.stdout is not None
    assert await parent.stdout.readline() == b"ready\n"
    children = [int((tmp_path / name).read_text()) for name in ("started", "child")]
    assert all(map(runs, children))
    parent.kill()
    await parent.communicate()
    await eventually(lambda: not any(map(runs, children)))


@pytest.mark.ring3
async def test_moves_on_when_its_port_is_taken_in_the_last_moment(tmp_path: Path) -> None:
    taken = {"log": ["OSError: [Errno 98] Address already in use"], "exit": 1}
    async with launched(tmp_path, taken, taken, taken, {}) as engine:
        await engine.launcher.wait_ready(20)
        assert len(engine.started) == 4


@pytest.mark.ring3
async def test_a_taken_port_is_said_at_once(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(LaunchError, match=f"Port {port} is taken by another program"):
            async with launched(tmp_path, port=port):
                pass
    async with launched(tmp_path, port=port) as engine:
        await engine.launcher.wait_ready(20)
        assert engine.launcher.base_url == f"http://127.0.0.1:{port}/v1"


@pytest.mark.parametrize(
    ("model", "modules", "message"),
    [
        ("/no/such/folder", (), r"There is no model in /no/such/folder \(no config\.json\)"),
        ("./nothing", (), r"There is no model in nothing \(no config\.json\)"),
        ("owner/name", ("no_such_vllm",), "needs the Python package no_such_vllm, which is not installed here"),
    ],
)
async def test_says_at_once_what_is_missing(tmp_path: Path, model: str, modules: tuple[str, ...], message: str) -> None:
    launcher = Launcher(LaunchPlan(("true",), model, (), 1, "a test", modules=modules), log_dir=tmp_path)
    with pytest.raises(LaunchError, match=message):
        await launcher.start()
    await launcher.aclose()


async def test_weights_that_are_not_complete_are_said_at_once(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model-1.safetensors").touch()
    index = tmp_path / "model.safetensors.index.json"
    launcher = Launcher(LaunchPlan(("true",), str(tmp_path), (), 1, "a test", modules=()), log_dir=tmp_path)
    index.write_text(json.dumps({"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}))
    with pytest.raises(LaunchError, match=r"1 of 2 files of weights are not in .*, model-2\.safetensors first"):
        await launcher.start()
    index.write_text("{")
    with pytest.raises(LaunchError, match=r"index\.json cannot be read: download the weights again"):
        await launcher.start()
    await launcher.aclose()


async def test_weights_that_cannot_be_read_are_said_at_once(tmp_path: Path) -> None:
    """By a name that no file can have: whoever is root may read all."""
    launcher = Launcher(LaunchPlan(("true",), str(tmp_path / ("x" * 300)), (), 1, "", modules=()), log_dir=tmp_path)
    with pytest.raises(LaunchError, match=r"xxx cannot be read: File name too long; name another folder"):
        await launcher.start()
    await launcher.aclose()


@pytest.mark.ring3
async def test_a_log_folder_that_cannot_be_written_is_said_by_name(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    launcher = Launcher(LaunchPlan(("true",), "owner/name", (), 1, "a test", modules=()), log_dir=tmp_path / "file")
    with pytest.raises(LaunchError, match=r"cannot be started: .*file"):
        await launcher.start()


async def test_a_machine_without_room_for_temporary_files_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    launcher = Launcher(LaunchPlan(("true",), "owner/name", (), 1, "a test", modules=()), log_dir=tmp_path)
    with pytest.raises(LaunchError, match=r"no place for temporary files: .*missing"):
        await launcher.start()


@pytest.mark.ring3
async def test_leaves_no_temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    async with launched(tmp_path, {"temporary": "socket"}) as engine:
        await engine.launcher.wait_ready(20)
        assert len(list((tmp_path / "temporary").glob("engine-*/socket"))) == 1
    assert list((tmp_path / "temporary").iterdir()) == []


@pytest.mark.ring3
async def test_the_log_is_for_the_owner_alone(tmp_path: Path) -> None:
    async with launched(tmp_path) as engine:
        assert engine.launcher.log.path.stat().st_mode & 0o077 == 0


def test_the_delay_doubles_up_to_its_limit() -> None:
    restarts = Restarts(first_delay_s=1, max_delay_s=10)
    assert [restarts.delay_s(deaths) for deaths in range(1, 7)] == [1, 2, 4, 8, 10, 10]
