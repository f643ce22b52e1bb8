import re
import tomllib
from pathlib import Path

import pytest
from pydantic_core import PydanticUndefined

from serving.settings import PREFIX, Settings

ROOT = Path(__file__).parents[1]
READMES = ("README.md", "README.zh-CN.md")
SETTINGS = ("docs/settings.md", "docs/settings.zh-CN.md")
ROW = re.compile(rf"^\| `({PREFIX}[A-Z_]+)` \| (.*?) \| (.+) \|$", re.MULTILINE)
LINK = re.compile(r"\]\((?!https?://)([^)#]+)\)")


def shown(value: object) -> str:
    """A default as the tables write it."""
    if value in (None, (), PydanticUndefined):
        return ""
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


@pytest.mark.parametrize("name", SETTINGS)
def test_the_settings_table_is_the_code(name: str) -> None:
    rows = ROW.findall((ROOT / name).read_text(encoding="utf-8"))
    written = {setting: default for setting, default, _ in rows}
    fields = {PREFIX + field.upper(): shown(info.default) for field, info in Settings.model_fields.items()}
    assert written == fields


PAGES = sorted(
    str(page.relative_to(ROOT))
    for folder in ("", "docs", "benchmarks", "docker", "k8s", "serving/demo/model")
    for page in (ROOT / folder).glob("*.md")
)


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name: str) -> None:
    page = ROOT / name
    missing = [link for link in LINK.findall(page.read_text(encoding="utf-8")) if not (page.parent / link).exists()]
    assert missing == []


@pytest.mark.parametrize("name", READMES)
def test_commands_in_the_readme_exist(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    mentioned = set(re.findall(r"^ *make ([a-z-]+)", text, re.MULTILINE))
    assert mentioned
    assert mentioned <= targets


def test_both_readmes_have_the_same_code() -> None:
    """The Chinese page is a translation: its commands and programs are the English ones, prompts aside."""
    blocks = [
        re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(encoding="utf-8"), re.DOTALL) for name in READMES
    ]
    prompts = [[re.sub(r'"text": ".*?"', '"text"', block) for block in each] for each in blocks]
    assert prompts[0] == prompts[1]


@pytest.mark.parametrize("name", READMES)
def test_programs_in_the_readme_compile(name: str) -> None:
    for block in re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(encoding="utf-8"), re.DOTALL):
        compile(block, name, "exec", flags=0x2000)  # PyCF_ALLOW_TOP_LEVEL_AWAIT


def test_the_changelog_knows_the_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert "## [Unreleased]" in changelog or f"## [{version}]" in changelog


def test_every_page_has_its_chinese_twin() -> None:
    english = {name for name in PAGES if not name.endswith(".zh-CN.md")} - {
        "CHANGELOG.md",
        "serving/demo/model/README.md",
    }
    assert {name.replace(".md", ".zh-CN.md") for name in english} <= set(PAGES)
