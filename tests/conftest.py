import os

import pytest
from hypothesis import HealthCheck, settings

# A loaded machine makes every time limit a lie, and the first text drawn builds Unicode tables for seconds.
settings.register_profile("here", deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("here")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Here, because only this file is read before the command line is."""
    group = parser.getgroup("conformance", "clients against the server (tests/conformance)")
    group.addoption("--target", choices=("local", "cloud"), default="local", help="what the clients talk to")
    group.addoption("--conformance-table", metavar="FILE", help="write the table of clients and flows to FILE")


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test depends on what the shell has set; a proxy would even take requests to 127.0.0.1 away."""
    for name in list(os.environ):
        if name.upper().startswith(("HOMESCOPE_", "DASHSCOPE_")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
