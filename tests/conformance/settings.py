"""The server's settings under which clients are tried."""

from __future__ import annotations

from pathlib import Path

from serving.settings import Settings


def conformance_settings(folder: Path) -> Settings:
    """Fetching from this machine is allowed, because the pictures of the tests are there; tasks are on."""
    return Settings(
        data=folder / "data",
        model_aliases=("qwen3-vl-plus",),
        fetch_allow=("127.0.0.1",),
        async_tasks=True,
        cache="off",
    )
