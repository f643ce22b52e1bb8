import pytest


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "deploy: builds images, renders manifests or starts the whole stack (slow)")
