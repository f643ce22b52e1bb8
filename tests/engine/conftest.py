from pathlib import Path

import pytest

from tests.conftest import ENGINE_STARTS_WITHIN_S

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker("engine")
            if item.get_closest_marker("timeout") is None:  # the first test waits for the start
                item.add_marker(pytest.mark.timeout(ENGINE_STARTS_WITHIN_S + 30))
