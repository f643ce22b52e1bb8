import os
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from anyio.from_thread import start_blocking_portal
from hypothesis import HealthCheck, settings

from serving.engine.hardware import detect
from serving.engine.launch import Launcher
from serving.engine.plan import plan
from serving.settings import MODEL_NAMES
from tests import rings
from tests.serving.storage.postgres import postgres

__all__ = ["postgres"]

ENGINE_STARTS_WITHIN_S = 420

# A loaded machine makes every time limit a lie, and the first text drawn builds Unicode tables for seconds.
settings.register_profile("here", deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("here")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Here, because only this file is read before the command line is."""
    group = parser.getgroup("conformance", "clients against the server (tests/conformance)")
    group.addoption("--target", choices=("local", "cloud"), default="local", help="what the clients talk to")
    group.addoption("--conformance-table", metavar="FILE", help="write the table of clients and flows to FILE")
    group = parser.getgroup("rings", "rings of tests (tests/rings.py)")
    group.addoption("--rings", type=int, choices=(2, 3), default=rings.ALL, help="the first so many, all by default")


GUARD = rings.Guard()


@pytest.fixture(scope="session")
def ring3() -> None:
    """Asked for by every fixture that listens on a socket or starts a process: its tests are of ring three."""


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    return True if rings.beyond(collection_path, config.getoption("--rings")) else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if others := rings.select(items, config.getoption("--rings")):
        config.hook.pytest_deselected(items=others)
    if hasattr(config, "workerinput"):  # of xdist
        rings.slow_first(items)


def _watched(item: pytest.Item) -> Generator[None, None, None]:
    GUARD.begin(rings.ring_of(item))
    try:
        yield
    finally:
        done = GUARD.end()
    if done:
        pytest.fail(f"not of ring three, but {'; '.join(done)}: ask for the fixture ring3 or mark it so", pytrace=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, None, None]:
    return (yield from _watched(item))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    return (yield from _watched(item))


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test depends on what the shell has set; a proxy would even take requests to 127.0.0.1 away."""
    for name in list(os.environ):
        if name.upper().startswith(("HOMESCOPE_", "DASHSCOPE_")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def launcher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launcher]:
    """Real vLLM with the demo model, started once for all tests that ask it and watched in a thread of its own."""
    chosen = plan(detect(), model="demo", served_names=MODEL_NAMES)
    launcher = Launcher(chosen, log_dir=tmp_path_factory.mktemp("engine"))
    with start_blocking_portal() as portal:
        try:
            portal.call(launcher.start)
            portal.call(launcher.wait_ready, ENGINE_STARTS_WITHIN_S)
            yield launcher
        finally:
            portal.call(launcher.aclose)


@pytest.fixture(scope="session")
def engine_url(launcher: Launcher) -> str:
    """The base URL of vLLM's OpenAI API, `/v1` included."""
    return launcher.base_url


@pytest.fixture(scope="session")
def engine_key(launcher: Launcher) -> str:
    return launcher.api_key
