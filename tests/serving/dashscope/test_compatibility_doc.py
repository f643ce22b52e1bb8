"""What the page says to set can be set, and the limits that it names are those there are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from serving.settings import PREFIX, Settings

ROOT = Path(__file__).parents[3]
PAGES = ("docs/compatibility.md", "docs/compatibility.zh-CN.md")
EXAMPLE = re.compile(rf"`({PREFIX}[A-Z_]+)=([^`]+)`")


def text(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES)
def test_its_examples_are_settings(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    examples = EXAMPLE.findall(text(page))
    assert len(examples) >= 9
    for name, value in examples:
        monkeypatch.setenv(name, value.replace("https://...", "https://vl.example.com"))
    changed = Settings()
    for name, _ in examples:
        field = name.removeprefix(PREFIX).lower()
        assert getattr(changed, field) != Settings.model_fields[field].default, name


def test_both_languages_say_the_same() -> None:
    english, chinese = map(text, PAGES)
    assert EXAMPLE.findall(english) == EXAMPLE.findall(chinese)
    for mark in (r"^## ", r"^- ", r"^\| "):
        assert len(re.findall(mark, english, re.MULTILINE)) == len(re.findall(mark, chinese, re.MULTILINE))


@pytest.mark.parametrize("page", PAGES)
def test_its_limits_are_the_defaults(page: str) -> None:
    defaults = Settings()
    assert re.search(rf"\b{defaults.max_images}\b", text(page))
    assert f"{defaults.max_image_bytes:,}" in text(page)
