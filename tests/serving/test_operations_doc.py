"""The operators' chapter says what is so."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from serving.cli import main
from serving.settings import PREFIX, Settings
from serving.webhooks import signing
from serving.webhooks.delivery import BACK_OFF
from serving.webhooks.secrets import shown

ROOT = Path(__file__).parents[2]
PAGES = ("docs/operations.md", "docs/operations.zh-CN.md")


def text(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def named(page: str) -> set[str]:
    return set(re.findall(rf"\b{PREFIX}[A-Z_]+[A-Z]\b", text(page)))


@pytest.mark.parametrize("page", PAGES)
def test_each_setting_that_is_named_exists(page: str) -> None:
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    assert named(page) - known <= {"HOMESCOPE_LIMIT"}
    assert len(named(page)) > 40


def test_both_languages_name_the_same() -> None:
    assert named(PAGES[0]) == named(PAGES[1])
    headings = [len(re.findall(r"^## ", text(page), re.MULTILINE)) for page in PAGES]
    assert headings[0] == headings[1]
    blocks = [re.findall(r"```(?:python|json)\n(.*?)```", text(page), re.DOTALL) for page in PAGES]
    assert blocks[0] == blocks[1]


@pytest.mark.parametrize("page", PAGES)
def test_each_command_that_is_named_exists(page: str) -> None:
    for words in re.findall(r"`homescope-server ([^`]+)`", text(page)):
        command: click.Command = main
        rest = words.split()
        while rest and isinstance(command, click.Group):
            found = command.commands.get(rest.pop(0))
            assert found is not None, words
            command = found
        options = {option for parameter in command.params for option in parameter.opts}
        assert {word.partition("=")[0] for word in rest if word.startswith("--")} <= options, words


def test_the_pauses_between_attempts_are_those() -> None:
    assert "5 s, 30 s, 5 min,\n30 min, 2 h, 5 h, 10 h and 14 h" in text(PAGES[0])
    assert BACK_OFF == (5, 30, 5 * 60, 30 * 60, 2 * 3600, 5 * 3600, 10 * 3600, 14 * 3600)


def test_the_receiver_of_the_page_accepts_what_is_signed_and_nothing_else() -> None:
    (block,) = re.findall(r"```python\n(.*?)```", text(PAGES[0]), re.DOTALL)
    names: dict[str, Callable[[dict[str, str], bytes, str], bool]] = {}
    exec(compile(block, PAGES[0], "exec"), names)
    verified, now = names["verified"], int(time.time())
    before, after, foreign = bytes(32), bytes([1] * 32), bytes([2] * 32)
    headers = signing.headers("id", now, b"{}", [after, before])
    assert verified(headers, b"{}", shown(before))
    assert verified(headers, b"{}", shown(after))
    assert not verified(headers, b"{}", shown(foreign))
    assert not verified(headers, b"{ }", shown(after))
    assert not verified(signing.headers("id", now - 600, b"{}", [after]), b"{}", shown(after))
