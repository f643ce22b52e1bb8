"""What docs/reports.md says is what the program does, in both languages."""

from __future__ import annotations

import re
import sqlite3
from pathlib import Path

import pytest

from client.finance.command import report_command
from client.finance.rules import read_rules
from client.finance.store import Store
from client.finance.tables import VIEWS, metadata

DOCS = Path(__file__).parents[3] / "docs"
PAGES = ["reports.md", "reports.zh-CN.md"]


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (DOCS / page).read_text("utf-8"), re.DOTALL)


@pytest.mark.parametrize("page", PAGES)
def test_the_rules_shown_are_rules(tmp_path: Path, page: str) -> None:
    (text,) = blocks(page, "toml")
    (tmp_path / "rules.toml").write_text(text, "utf-8")
    (rule,) = read_rules(tmp_path / "rules.toml")
    assert rule.model_copy(update={"measures": ()}) == read_rules()[0]


@pytest.mark.parametrize("page", PAGES)
def test_options_and_tables_that_are_named_exist(page: str) -> None:
    text = (DOCS / page).read_text("utf-8")
    options = {name for option in report_command.params for name in option.opts}
    named = {name for name in re.findall(r"(?<![\w-])--[a-z][a-z-]+", text) if name not in ("--count", "--seed")}
    assert named <= options
    for name in [*VIEWS, *metadata.tables]:
        assert f"`{name}`" in text


@pytest.mark.parametrize("page", PAGES)
async def test_the_query_shown_runs(tmp_path: Path, page: str) -> None:
    async with Store.opened(f"sqlite:///{tmp_path / 'r.db'}"):
        pass
    (query,) = blocks(page, "sql")
    database = sqlite3.connect(tmp_path / "r.db")
    assert database.execute(query).fetchall() == []
    database.close()


@pytest.mark.parametrize("page", PAGES)
def test_the_program_shown_compiles(page: str) -> None:
    (program,) = blocks(page, "python")
    compile(program, page, "exec")
