from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from anyio.from_thread import start_blocking_portal

from tests.conformance import environments, table
from tests.conformance.material import Material
from tests.conformance.matrix import CLIENTS
from tests.conformance.process import Driver
from tests.conformance.scripted import Scripted
from tests.conformance.target import MODEL, Target, cloud, local

RESULTS = pytest.StashKey[dict[tuple[str, str], str]]()
AT_A_TIME = 2
"""Environments made at a time: unpacking is work for the processor, not for the network alone."""


@pytest.fixture(scope="session")
def target(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, ring3: None) -> Iterator[Target]:
    folder = tmp_path_factory.mktemp("conformance")
    if request.config.getoption("--target") == "cloud":
        yield cloud(folder)
        return
    app = local(folder, Scripted(), Material.drawn(MODEL))
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(app) as target:
        yield target


@pytest.fixture(scope="session")
def commands(request: pytest.FixtureRequest) -> Iterator[dict[str, Future[list[str]]]]:
    """How to start each client that this run needs; their environments are made meanwhile."""
    needed = {_parameters(item)["client"] for item in request.session.items if "client" in _parameters(item)}
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        yield {name: pool.submit(environments.command, CLIENTS[name]) for name in CLIENTS if name in needed}
        pool.shutdown(cancel_futures=True)


@pytest.fixture(scope="session")
def driver(
    commands: dict[str, Future[list[str]]], tmp_path_factory: pytest.TempPathFactory, ring3: None
) -> Iterator[Callable[[str], Driver]]:
    """The process of a client by name, started once."""
    running: dict[str, Driver] = {}

    def named(name: str) -> Driver:
        if name not in running:
            try:
                command = commands[name].result()
            except environments.Missing as missing:
                pytest.skip(str(missing))
            running[name] = Driver(command, tmp_path_factory.mktemp("client") / f"{name}.log")
        return running[name]

    yield named
    for each in running.values():
        each.close()


def _parameters(item: pytest.Item) -> dict[str, object]:
    call = getattr(item, "callspec", None)
    return call.params if call else {}


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    outcome = yield
    report: pytest.TestReport = outcome.get_result()  # type: ignore[attr-defined]
    parameters = _parameters(item)
    if getattr(item, "originalname", "") == "test_client" and (report.when == "call" or report.skipped):
        mark = table.WORKS if report.passed else table.SKIPPED if report.skipped else table.FAILS
        item.config.stash.setdefault(RESULTS, {})[str(parameters["client"]), str(parameters["flow"])] = mark


def pytest_sessionfinish(session: pytest.Session) -> None:
    if path := session.config.getoption("--conformance-table"):
        results: dict[tuple[str, str], str] = session.config.stash.get(RESULTS, {})
        Path(path).write_text(table.render(results), encoding="utf-8")
