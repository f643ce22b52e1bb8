"""The same on SQLite and on a real PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from client.documents import Figure
from client.errors import LedgerBusy
from client.finance.reading import Reading
from client.finance.rules import Alert
from client.finance.series import series_of
from client.finance.store import Outcome, Store
from tests.client.finance.conftest import READING
from tests.serving.storage.postgres import fresh_database

pytestmark = pytest.mark.timeout(120)  # PostgreSQL starts and stops in it

SERIES = series_of(Reading.model_validate(READING), "图1 营业收入（单位：百万元）")
ALERT = Alert(rule="r", label="关注", message="m", years=(2023, 2024), certain=False)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.ring3)])
async def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'r.db'}"
    url = await fresh_database(request.getfixturevalue("postgres"))
    return url if "host=" in url else url.split("?")[0]


@pytest.fixture
async def store(url: str) -> AsyncIterator[Store]:
    async with Store.opened(url) as store:
        yield store


@pytest.fixture
def figure(tmp_path: Path) -> Figure:
    (tmp_path / "f.png").write_bytes(b"png")
    return Figure(3, (1.5, 2.0, 30.0, 40.0), "figure", "图1 营业收入", False, tmp_path / "f.png", "d" * 64, "text")


def outcome(**changes: object) -> Outcome:
    return Outcome("k", "m", "1", **{"series": SERIES, "answer": "{}", **changes})  # type: ignore[arg-type]


async def test_a_series_comes_back_as_it_was(store: Store, figure: Figure) -> None:
    await store.begin("doc", Path("a.pdf"), 9)
    found = await store.add_figure("doc", figure)
    assert await store.reading(found.id, "k") is None
    number = await store.add_reading(found.id, outcome())
    assert await store.reading(found.id, "k") == number
    assert await store.series(number) == SERIES
    await store.set_alerts(number, [ALERT])
    await store.set_alerts(number, [ALERT])
    assert [row["label"] for row in await store.alerts_of(number)] == ["关注"]


async def test_views(store: Store, figure: Figure) -> None:
    await store.begin("doc", Path("a.pdf"), 9)
    found = await store.add_figure("doc", figure)
    number = await store.add_reading(found.id, outcome())
    await store.set_alerts(number, [ALERT])
    points = [row async for row in store.rows("series", ["doc"])]
    assert [(row["year"], row["growth"], row["flags"]) for row in points] == [
        (2021, 25.1, 1), (2022, 16.8, 1), (2023, 14.9, 1), (2024, 10.1, 1),
    ]  # fmt: skip
    assert [row["rule"] async for row in store.rows("open_alerts", ["doc", "other"])] == ["r"]
    assert [row["kind"] async for row in store.rows("disagreements", ["doc"])] == ["unit"]
    newer = await store.add_reading(found.id, Outcome("k2", "m2", "2", SERIES))
    assert newer != number
    assert {row["model"] async for row in store.rows("series", ["doc"])} == {"m2"}


async def test_a_document_is_searched_once(store: Store, figure: Figure) -> None:
    assert await store.searched("doc") is None
    await store.begin("doc", Path("a.pdf"), 9)
    found = await store.add_figure("doc", figure)
    assert await store.searched("doc") is None
    await store.finish("doc", 9, ["4: it is damaged"])
    assert await store.searched("doc") == [found]
    assert await store.add_figure("doc", figure) == found
    assert await store.problems("doc") == "4: it is damaged"
    figure.image.unlink()
    assert await store.searched("doc") is None


async def test_a_failure_is_replaced_by_the_answer(store: Store, figure: Figure) -> None:
    await store.begin("doc", Path("a.pdf"))
    found = await store.add_figure("doc", figure)
    await store.add_reading(found.id, outcome(series=None, reason="no answer"))
    assert await store.reading(found.id, "k") is None
    assert await store.twin("k") is None
    (row,) = await store.outcomes("doc")
    assert (row["state"], row["reason"]) == ("failed", "no answer")
    await store.add_reading(found.id, outcome())
    (row,) = await store.outcomes("doc")
    assert row["state"] == "done"
    assert await store.twin("k") is not None


async def test_a_figure_that_was_never_asked_about_is_shown(store: Store, figure: Figure) -> None:
    await store.begin("doc", Path("a.pdf"))
    await store.add_figure("doc", figure)
    (row,) = await store.outcomes("doc")
    assert (row["reading"], row["caption"]) == (None, "图1 营业收入")


async def test_a_second_run_on_one_database_is_refused(store: Store, url: str) -> None:
    async with Store.opened(url) as second:
        async with store.alone():
            with pytest.raises(LedgerBusy, match="another run is writing"):
                async with second.alone():
                    pytest.fail("both run")
            assert await second.searched("doc") is None, "readers are not kept out"
        async with second.alone():
            await second.begin("doc", Path("a.pdf"))
