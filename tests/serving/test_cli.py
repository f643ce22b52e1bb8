from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner, Result

from serving.cli import main, serve
from serving.engine.base import Engine
from serving.engine.progress import Progress, State
from serving.settings import Settings
from tests.fakes import FakeEngine
from tests.serving.conftest import PATH
from tests.serving.wire import chat

NO_ENGINE = "http://127.0.0.1:9"


@pytest.fixture(autouse=True)
def _root_logger() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level


@pytest.fixture
def _signal_handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def homescope(data: Path, *arguments: str, **env: str) -> Result:
    return CliRunner().invoke(main, arguments, env={"HOMESCOPE_DATA": str(data)} | env, catch_exceptions=False)


def assert_one_clear_line(done: Result, *said: str) -> None:
    assert done.exit_code == 2, done.output
    (line,) = done.stderr.splitlines()
    assert line.startswith("homescope-server: ")
    assert all(part in line for part in said), line


def test_a_database_that_is_away_is_named_for_what_it_is(tmp_path: Path) -> None:
    done = homescope(tmp_path, "keys", "list", HOMESCOPE_DATABASE="postgresql://u:canary@127.0.0.1:1/x")
    assert_one_clear_line(done, "database", "127.0.0.1", "HOMESCOPE_DATABASE")
    assert "canary" not in done.output


def test_a_redis_that_is_none_is_told_before_anything_starts(tmp_path: Path) -> None:
    done = homescope(tmp_path, "run", "--engine-url", "http://127.0.0.1:1", HOMESCOPE_REDIS_URL="canary:6379")
    assert_one_clear_line(done, "HOMESCOPE_REDIS_URL=...", "redis://host:6379/0")
    assert "canary" not in done.output


def test_keys_are_made_listed_and_revoked(tmp_path: Path) -> None:
    created = homescope(tmp_path, "keys", "create", "--name", "reports")
    secret = created.stdout.strip()
    assert secret.startswith("sk-")
    assert len(secret) > 40
    listed = homescope(tmp_path, "keys", "list").stdout
    assert listed.splitlines()[0].split() == ["ID", "PREFIX", "CREATED", "EXPIRES", "STATE", "NAME", "MAY"]
    assert "active  reports  everything but admin" in listed
    assert secret[:11] in listed
    assert secret not in listed
    assert "(reports)" in homescope(tmp_path, "keys", "revoke", secret[:11]).stdout
    assert "revoked" in homescope(tmp_path, "keys", "list").stdout
    assert_one_clear_line(homescope(tmp_path, "keys", "revoke", secret[:11]), "no active key", "keys list")


def test_an_unknown_setting(tmp_path: Path) -> None:
    done = homescope(tmp_path, "run", HOMESCOPE_MAX_INFLIGHT="3")
    assert_one_clear_line(done, "HOMESCOPE_MAX_INFLIGHT", "HOMESCOPE_MAX_IN_FLIGHT")


def test_a_bad_value(tmp_path: Path) -> None:
    assert_one_clear_line(homescope(tmp_path, "run", "--port", "99999"), "HOMESCOPE_PORT", "99999")


def test_an_empty_host_is_not_the_whole_network(tmp_path: Path) -> None:
    assert_one_clear_line(homescope(tmp_path, "run", "--host", ""), "HOMESCOPE_HOST=")


@pytest.mark.ring3
def test_a_taken_port(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = homescope(tmp_path, "run", "--port", port, "--engine-url", NO_ENGINE)
    assert_one_clear_line(done, f"cannot listen on 127.0.0.1:{port}", "--port")


@pytest.mark.ring3
def test_a_taken_port_for_operators(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = homescope(tmp_path, "run", "--port", "0", "--engine-url", NO_ENGINE, HOMESCOPE_ADMIN_PORT=port)
    assert_one_clear_line(done, f"cannot listen on 127.0.0.1:{port}", "HOMESCOPE_ADMIN_PORT")


@pytest.mark.ring3
@pytest.mark.parametrize("host", ["no host", "a..b", "203.0.113.1", "::zz"])
def test_a_host_that_is_none(tmp_path: Path, host: str) -> None:
    done = homescope(tmp_path, "run", "--host", host, "--port", "0", "--engine-url", NO_ENGINE)
    assert_one_clear_line(done, f"cannot listen on {host}:0", "--host")


@pytest.mark.ring3
def test_traces_by_a_protocol_that_is_not_spoken(tmp_path: Path) -> None:
    endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}
    done = homescope(tmp_path, "run", "--port", "0", "--no-auth", "--engine-url", NO_ENGINE, **endpoint)
    assert done.exit_code == 2
    assert "OTEL_EXPORTER_OTLP_PROTOCOL=grpc" in done.stderr.splitlines()[-1]


def test_a_port_for_operators_that_is_none(tmp_path: Path) -> None:
    done = homescope(tmp_path, "run", "--port", "0", HOMESCOPE_ADMIN_PORT="70000")
    assert_one_clear_line(done, "HOMESCOPE_ADMIN_PORT", "70000")


@pytest.mark.ring3
def test_a_data_folder_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    done = homescope(tmp_path / "file" / "data", "run", "--port", "0", "--engine-url", NO_ENGINE)
    assert_one_clear_line(done, "cannot keep state in", "HOMESCOPE_DATA")


def test_a_data_folder_with_a_broken_database(tmp_path: Path) -> None:
    (tmp_path / "homescope.db").write_bytes(b"not a database" * 100)
    assert_one_clear_line(homescope(tmp_path, "keys", "list"), "cannot keep state in", "not a database")


@pytest.mark.ring3
@pytest.mark.usefixtures("_signal_handlers")
async def test_it_ends_when_its_engine_has_been_given_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Doomed(FakeEngine):
        """Ready at first; what watches it gives up later, as it does when an engine dies again and again."""

        async def start(self) -> None:
            asyncio.get_running_loop().call_later(0.1, report, Progress(State.FAILED, "died 5 times", 9.0, 20.0))

    report: Callable[[Progress], None]

    def doomed(_: Settings, on_progress: Callable[[Progress], None]) -> Engine:
        nonlocal report
        report = on_progress
        return Doomed()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        assert await asyncio.wait_for(serve(Settings(data=tmp_path), listener, engine_of=doomed), 10) == 1
    assert "homescope-server: no engine, so nothing to serve: died 5 times" in capsys.readouterr().err


@pytest.mark.parametrize("url", ["127.0.0.1:8001", "ftp://127.0.0.1", "nonsense"])
def test_an_engine_url_that_is_none(tmp_path: Path, url: str) -> None:
    done = homescope(tmp_path, "run", "--port", "0", "--engine-url", url)
    assert_one_clear_line(done, url, "--engine-url http://")


@pytest.fixture
def running(tmp_path: Path, ring3: None) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "serving", "run", "--port", "0", "--engine-url", NO_ENGINE],
        env=os.environ | {"HOMESCOPE_DATA": str(tmp_path / "new")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        yield process
        process.kill()


@pytest.mark.timeout(90)
def test_it_answers_before_there_is_an_engine_and_stops_when_told(running: subprocess.Popen[str]) -> None:
    assert running.stdout
    assert running.stderr
    key = running.stdout.readline().removeprefix("API key, shown this once: ").strip()
    url = running.stderr.readline().removeprefix("homescope-server: listening on ").strip().removesuffix("/api/v1")
    with httpx.Client(base_url=url, timeout=60) as client:
        assert client.get("/livez").status_code == 200
        assert client.get("/readyz").status_code == 503
        refused = client.post(PATH, json=chat(), headers={"authorization": f"Bearer {key}"})
        assert (refused.status_code, refused.json()["code"]) == (503, "ModelUnavailable")
        assert refused.headers["retry-after"] == "5"
        upgrade = {"connection": "upgrade", "upgrade": "websocket", "sec-websocket-version": "13"}
        key16 = {"sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ=="}
        assert client.get("/nothing", headers=upgrade | key16).status_code == 404
    running.send_signal(signal.SIGTERM)
    assert running.wait(30) == 0
    assert "Traceback" not in running.stderr.read()


@pytest.mark.timeout(90)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_as_early_as_can_be_is_not_lost(running: subprocess.Popen[str], number: signal.Signals) -> None:
    assert running.stderr
    assert "listening on" in running.stderr.readline()
    running.send_signal(number)
    assert running.wait(30) == 0
    assert "Traceback" not in running.stderr.read()


@pytest.mark.ring3
@pytest.mark.timeout(90)
def test_it_ends_when_there_can_be_no_engine(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "serving", "run", "--port", "0"],
        env=os.environ | {"HOMESCOPE_DATA": str(tmp_path), "HOMESCOPE_MODEL": str(tmp_path / "no-such-model")},
        capture_output=True,
        text=True,
        timeout=80,
        check=False,
    )
    assert done.returncode == 1
    assert "homescope-server: no engine, so nothing to serve: " in done.stderr
    assert "Traceback" not in done.stderr
