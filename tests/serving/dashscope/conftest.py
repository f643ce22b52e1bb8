from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from serving.access.signer import Signer
from serving.dashscope.policy import Policies
from serving.storage import database, objects
from serving.storage.uploads import Uploads
from tests.serving.dashscope.uploading import MAX_BYTES, Clock, Parts


@pytest.fixture
async def parts(tmp_path: Path) -> AsyncGenerator[Parts, None]:
    records, store, clock = database.at(tmp_path), objects.at(None, tmp_path), Clock()
    await database.create_tables(records, tmp_path)
    await store.start()
    policies = Policies(Signer(records), MAX_BYTES, clock=clock)
    yield Parts(Uploads(records, store, clock=clock), policies, tmp_path / "objects", clock)
    await store.aclose()
    await database.close(records)
