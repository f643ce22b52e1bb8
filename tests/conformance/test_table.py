from pathlib import Path

import pytest

from tests.conformance import table

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", ["README.md", "README.zh-CN.md"])
def test_the_readmes_promise_what_the_suite_holds(name: str) -> None:
    """`python -m tests.conformance.table` prints the table to paste."""
    assert table.promised() in (ROOT / name).read_text(encoding="utf-8")
