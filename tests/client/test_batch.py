from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from client import errors
from client.batch import _TURNS, SAME_REFUSAL, Batch, _Feed
from client.ledger import Ledger
from client.models import Done, Failed, Job, Record, Skipped, Totals, is_copy
from client.pace import Pace
from client.questions import Question
from client.report import summarise, write_page
from client.retry import Policy
from client.scoring import Expected
from client.session import Session
from client.sources import walk
from tests.client import server as replies
from tests.client.conftest import Folder, png
from tests.client.server import Call, Scripted

JOB = Job("Read the chart.")
QUICK = Policy(attempts=3, throttled_attempts=30, base=0.001)


@asynccontextmanager
async def batching(server: Scripted, out: Path, job: Job = JOB, **options: Any) -> AsyncIterator[Batch]:
    async with Session(server.url, "sk-test") as session:
        with Ledger(out, job) as ledger:
            defaults: dict[str, Any] = {"pace": Pace(4), "retry": QUICK}
            yield Batch(session, job, ledger, **(defaults | options))


async def run(server: Scripted, folder: Path, job: Job = JOB, **options: Any) -> tuple[Totals, list[Record]]:
    async with batching(server, folder.parent / "out.jsonl", job, **options) as batch:
        totals = await batch.run(walk([str(folder)]))
        return totals, list(batch._ledger.records())


def names(records: Sequence[Record], kind: type[Record]) -> list[str]:
    return [Path(record.file).name for record in records if isinstance(record, kind)]


def asked(server: Scripted) -> Counter[str]:
    return Counter(call.digest for call in server.calls)


async def test_every_image_ends_as_one_record(server: Scripted, charts: Folder) -> None:
    folder = charts(10)
    (folder / "notes.txt").write_text("words")
    (folder / "empty.png").touch()
    totals, records = await run(server, folder)
    assert (totals.done, totals.failed, totals.skipped, totals.ended) == (10, 0, 2, 12)
    assert names(records, Done) == [f"chart-{number}.png" for number in range(1, 11)]
    assert names(records, Skipped) == ["empty.png", "notes.txt"]
    assert totals.usage.total_tokens == 1100
    assert set(asked(server).values()) == {1}


async def test_again_asks_nothing(server: Scripted, charts: Folder) -> None:
    folder = charts(5)
    _, first = await run(server, folder)
    totals, second = await run(server, folder)
    assert (totals.done, totals.resumed, totals.asked, totals.usage.total_tokens) == (5, 5, 0, 0)
    assert second == first
    assert len(server.calls) == 5


async def test_again_without_a_server(server: Scripted, charts: Folder) -> None:
    folder = charts(3)
    await run(server, folder)
    gone = Scripted(url="http://127.0.0.1:9/api/v1")
    totals, _ = await run(gone, folder)
    assert totals.done == 3


async def test_a_changed_prompt_is_new_work(server: Scripted, charts: Folder) -> None:
    folder = charts(2)
    await run(server, folder)
    await run(server, folder, Job("Another question"))
    assert len(server.calls) == 4


async def test_a_changed_image_is_asked_again(server: Scripted, charts: Folder) -> None:
    folder = charts(2)
    await run(server, folder)
    (folder / "chart-1.png").write_bytes(png(99))
    totals, records = await run(server, folder)
    assert (totals.done, totals.resumed, len(server.calls), len(records)) == (2, 1, 3, 2)


async def test_a_renamed_image_is_not(server: Scripted, charts: Folder) -> None:
    folder = charts(2)
    await run(server, folder)
    (folder / "chart-1.png").rename(folder / "chart-9.png")
    totals, _ = await run(server, folder)
    assert (totals.done, totals.asked, len(server.calls)) == (2, 0, 2)


async def test_the_same_bytes_twice_are_one_question(server: Scripted, charts: Folder) -> None:
    folder = charts(1)
    (folder / "copy.png").write_bytes((folder / "chart-1.png").read_bytes())
    totals, records = await run(server, folder)
    assert (totals.done, totals.duplicates, len(server.calls)) == (2, 1, 1)
    [twin] = [record.duplicate_of for record in records if isinstance(record, Done) and record.duplicate_of]
    assert Path(twin).name in {"chart-1.png", "copy.png"}


@pytest.mark.parametrize("schema", [None, {"type": "object"}], ids=["done", "unfit"])
async def test_the_same_bytes_twice_stay_what_they_were(
    server: Scripted, charts: Folder, schema: dict[str, Any] | None
) -> None:
    folder, job = charts(1), Job("?", schema=schema)
    (folder / "copy.png").write_bytes((folder / "chart-1.png").read_bytes())
    totals, first = await run(server, folder, job)
    assert (totals.resumed, totals.duplicates, totals.usage.total_tokens) == (0, 1, 220 if schema else 110)
    totals, second = await run(server, folder, job)
    assert second == first
    assert (totals.resumed, totals.duplicates, totals.usage.total_tokens) == (2, 0, 0)
    assert sum(is_copy(record) for record in second) == 1
    assert summarise(second, Expected({})).usage.total_tokens == (220 if schema else 110)


async def test_one_bad_image_harms_no_other(server: Scripted, charts: Folder) -> None:
    folder = charts(5)
    bad = png(3)
    refused = replies.refusal(400, "InvalidParameter", "The image length and width do not meet the restrictions.")
    server.default = lambda call: refused if call.image == bad else replies.answer("ok")
    totals, records = await run(server, folder)
    assert (totals.done, totals.failed) == (4, 1)
    [failed] = [record for record in records if isinstance(record, Failed)]
    assert (Path(failed.file).name, failed.status, failed.code) == ("chart-3.png", 400, "InvalidParameter")
    assert failed.reason == "The image length and width do not meet the restrictions."
    assert asked(server)[server.calls[0].digest] == 1


async def test_what_may_pass_is_asked_again_within_the_run(server: Scripted, charts: Folder) -> None:
    server.script = [
        replies.refusal(429, "Throttling", "later", retry_after_ms="1"),
        replies.half,
        replies.refusal(500, "InternalError", "oops"),
        replies.HTMLResponse("<html>", 502),
    ] * 3
    totals, records = await run(server, charts(12), retry=Policy(attempts=9, base=0.001))
    assert (totals.done, totals.failed) == (12, 0)
    assert sum(record.attempts for record in records if isinstance(record, Done)) == 24


async def test_a_failure_is_asked_again_by_the_next_run(server: Scripted, charts: Folder) -> None:
    folder = charts(2)
    server.default = lambda call: replies.refusal(500, "InternalError", f"oops {call.digest}")
    totals, _ = await run(server, folder)
    assert (totals.failed, len(server.calls)) == (2, 6)
    server.default = lambda call: replies.answer("ok")
    totals, records = await run(server, folder)
    assert (totals.done, totals.failed, len(records)) == (2, 0, 2)


async def test_an_answer_that_does_not_fit_is_paid_for_once(server: Scripted, charts: Folder) -> None:
    folder, job = charts(1), Job("?", schema={"type": "object"})
    server.default = lambda call: replies.answer("no JSON here")
    totals, [failed] = await run(server, folder, job)
    assert isinstance(failed, Failed)
    assert (totals.failed, failed.answer, failed.usage.total_tokens) == (1, "no JSON here", 220)
    totals, _ = await run(server, folder, job)
    assert (totals.failed, totals.resumed, len(server.calls)) == (1, 1, 2)
    server.default = lambda call: replies.answer("{}")
    totals, _ = await run(server, folder, job, retry_failed=True)
    assert (totals.done, len(server.calls)) == (1, 3)


async def test_a_schema_gives_values(server: Scripted, charts: Folder) -> None:
    server.default = lambda call: replies.answer('{"v": [1, 2.5]}')
    _, [record] = await run(server, charts(1), Job("?", schema={"type": "object"}))
    assert isinstance(record, Done)
    assert record.value == {"v": [1, 2.5]}


@pytest.mark.parametrize(
    ("content", "schema"), [(r'"words \ud83d"', None), (r'"{\"v\": \"\\ud83d\"}"', {"type": "object"})]
)
async def test_half_a_character_is_not_the_end_of_the_run(
    server: Scripted, charts: Folder, tmp_path: Path, content: str, schema: dict[str, Any] | None
) -> None:
    body = json.dumps(replies.frame("CONTENT")).replace('"CONTENT"', content)
    server.default = lambda call: replies.HTMLResponse(body)
    totals, records = await run(server, charts(1), Job("?", schema=schema))
    assert totals.done == 1
    write_page(tmp_path / "page.html", lambda: records, JOB)


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [(401, "InvalidApiKey", errors.Unauthorized), (404, "ModelNotFound", errors.NotFound),
     (400, "Arrearage", errors.AccountBlocked)],
)  # fmt: skip
async def test_a_wrong_key_stops_at_once(
    server: Scripted, charts: Folder, status: int, code: str, kind: type[errors.HomescopeError]
) -> None:
    server.default = lambda call: replies.refusal(status, code, "the server's words")
    folder = charts(200)
    with pytest.raises(kind, match="the server's words"):
        await run(server, folder)
    assert len(server.calls) <= 8
    with Ledger(folder.parent / "out.jsonl", JOB) as ledger:
        assert list(ledger.records()) == [], "no image is to blame"


async def test_the_same_refusal_of_all_first_images_stops(server: Scripted, charts: Folder) -> None:
    server.default = lambda call: replies.refusal(400, "InvalidParameter", "Range of top_p should be (0.0, 1.0]")
    folder = charts(200)
    with pytest.raises(errors.InvalidRequest, match="top_p"):
        await run(server, folder)
    assert SAME_REFUSAL <= len(server.calls) <= SAME_REFUSAL + 8
    server.default = lambda call: replies.answer("ok")
    totals, _ = await run(server, folder)
    assert totals.done == 200


async def test_a_server_of_another_kind_stops(server: Scripted, charts: Folder) -> None:
    server.default = lambda call: replies.HTMLResponse("<h1>Welcome</h1>")
    with pytest.raises(errors.BadResponse, match="not JSON"):
        await run(server, charts(SAME_REFUSAL + 20), retry=Policy(attempts=1))
    assert len(server.calls) <= SAME_REFUSAL + 8


async def test_unless_told_to_keep_going(server: Scripted, charts: Folder) -> None:
    server.default = lambda call: replies.refusal(400, "InvalidParameter", "too small")
    totals, _ = await run(server, charts(SAME_REFUSAL + 5), keep_going=True)
    assert totals.failed == SAME_REFUSAL + 5


async def test_after_one_answer_refusals_are_the_images_own(server: Scripted, charts: Folder) -> None:
    server.script = [replies.answer("ok")]
    server.default = lambda call: replies.refusal(400, "InvalidParameter", "too small")
    totals, _ = await run(server, charts(SAME_REFUSAL + 6), pace=Pace(1))
    assert (totals.done, totals.failed) == (1, SAME_REFUSAL + 5)


async def test_a_server_that_was_never_there_stops_at_once(charts: Folder) -> None:
    gone = Scripted(url="http://127.0.0.1:9/api/v1")
    with pytest.raises(errors.ConnectionFailed, match="cannot reach"):
        await run(gone, charts(50), retry=Policy(attempts=50, base=60))


async def test_a_server_that_goes_away_leaves_the_rest_for_later(server: Scripted, charts: Folder) -> None:
    folder = charts(30)

    def drop_after_five(call: Call) -> replies.Reply:
        if len(server.calls) > 5:
            batch._session.base_url = "http://127.0.0.1:9/api/v1"
        return replies.answer("ok")

    server.default = drop_after_five
    async with batching(server, folder.parent / "out.jsonl") as batch:
        with pytest.raises(errors.ConnectionFailed):
            await batch.run(walk([str(folder)]))
        assert 0 < batch.totals.done < 30
        assert batch.totals.failed == 0
    server.default = lambda call: replies.answer("ok")
    totals, _ = await run(server, folder)
    assert totals.done == 30
    assert set(asked(server).values()) == {1}


async def test_no_more_requests_at_once_than_told(server: Scripted, charts: Folder) -> None:
    server.gate.clear()
    async with batching(server, charts(1).parent / "out.jsonl", pace=Pace(3)) as batch:
        for number in range(20):
            (Path(batch._ledger.out).parent / "charts" / f"more-{number}.png").write_bytes(png(100 + number))
        running = asyncio.create_task(batch.run(walk([str(batch._ledger.out.parent / "charts")])))
        await asyncio.to_thread(server.arrived.acquire)
        server.gate.set()
        await running
    assert server.most_at_once <= 3
    assert len(server.calls) == 21


async def test_no_more_images_in_memory_than_needed(server: Scripted, charts: Folder) -> None:
    server.gate.clear()
    folder, drawn = charts(40), 0

    def paths() -> Iterator[Path]:
        nonlocal drawn
        for path in walk([str(folder)]):
            drawn += 1
            yield path

    async with batching(server, folder.parent / "out.jsonl", pace=Pace.auto(start=3, ceiling=64)) as batch:
        running = asyncio.create_task(batch.run(paths()))
        for _ in range(3):
            await asyncio.to_thread(server.arrived.acquire)
        assert drawn <= 5
        server.gate.set()
        assert (await running).done == 40
    assert batch.pace.limit > 3


async def test_a_minute_of_429_loses_nothing(server: Scripted, charts: Folder) -> None:
    later = replies.refusal(429, "Throttling.RateQuota", "Requests rate limit exceeded", retry_after_ms="2")
    server.script = [later] * 100
    totals, _ = await run(server, charts(20), pace=Pace.auto(start=8, ceiling=16))
    assert (totals.done, totals.failed) == (20, 0)
    assert len(server.calls) == 120


async def test_stop_finishes_what_is_in_flight(server: Scripted, charts: Folder) -> None:
    folder = charts(20)
    server.gate.clear()
    async with batching(server, folder.parent / "out.jsonl", pace=Pace(3)) as batch:
        running = asyncio.create_task(batch.run(walk([str(folder)])))
        for _ in range(3):
            await asyncio.to_thread(server.arrived.acquire)
        batch.stop()
        server.gate.set()
        totals = await running
    assert (totals.done, len(server.calls)) == (3, 3)
    totals, _ = await run(server, folder)
    assert (totals.done, totals.resumed, len(server.calls)) == (20, 3, 20)


async def test_stop_does_not_wait_for_a_back_off(server: Scripted, charts: Folder) -> None:
    server.default = lambda call: replies.refusal(503, "ModelUnavailable", "later", retry_after="100")
    async with batching(server, charts(1).parent / "out.jsonl") as batch:
        running = asyncio.create_task(batch.run(walk([str(batch._ledger.out.parent / "charts")])))
        await asyncio.to_thread(server.arrived.acquire)
        batch.stop()
        totals = await asyncio.wait_for(running, 20)
    assert totals.ended == 0


async def test_a_file_that_vanishes_is_skipped(server: Scripted, charts: Folder) -> None:
    folder = charts(2)
    paths = [*walk([str(folder)]), folder / "vanished.png"]
    async with batching(server, folder.parent / "out.jsonl") as batch:
        totals = await batch.run(paths)
    assert (totals.done, totals.skipped) == (2, 1)


async def test_each_record_is_told(server: Scripted, charts: Folder) -> None:
    folder = charts(3)
    told: list[tuple[str, bool]] = []
    for _ in range(2):
        await run(server, folder, on_record=lambda record, resumed: told.append((Path(record.file).name, resumed)))
    assert Counter(resumed for _, resumed in told) == {False: 3, True: 3}


async def test_many_answers_at_once_do_not_read_everything_ahead() -> None:
    drawn: list[int] = []

    def found() -> Iterator[Question]:
        for number in range(5_000):
            drawn.append(number)
            yield Question(f"row {number}", ("https://example.com/a.png",), "?")

    feed, workers = _Feed(found()), 256
    items = await asyncio.gather(*(feed.draw(7) for _ in range(workers)))
    assert len({item and item[0] for item in items}) == workers, "each has one of its own"
    assert len(drawn) < 2 * workers + 7 * _TURNS
    rest = [await feed.draw(7) for _ in range(5_000 - workers)]
    assert all(rest)
    assert await feed.draw(7) is None
