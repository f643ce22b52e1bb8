from collections.abc import Iterator
from pathlib import Path

import pytest
from anyio.from_thread import start_blocking_portal

from serving.engine.hardware import detect
from serving.engine.launch import Launcher
from serving.engine.plan import plan
from serving.settings import MODEL_NAMES

HERE = Path(__file__).parent
START_WITHIN_S = 240


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker("engine")
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(START_WITHIN_S + 30))  # the first test waits for the start


@pytest.fixture(scope="session")
def launcher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launcher]:
    """Real vLLM with the demo model, started once for the whole ring and watched in a thread of its own."""
    chosen = plan(detect(), model="demo", served_names=MODEL_NAMES)
    launcher = Launcher(chosen, log_dir=tmp_path_factory.mktemp("engine"))
    with start_blocking_portal() as portal:
        try:
            portal.call(launcher.start)
            portal.call(launcher.wait_ready, START_WITHIN_S)
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
