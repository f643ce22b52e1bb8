"""docs/client.md is run as it stands: its programs as programs, its commands as commands."""

from __future__ import annotations

import ast
import inspect
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from reportlab.pdfgen.canvas import Canvas  # type: ignore[import-untyped]

from client.cli import main
from tests.client import server as replies
from tests.client.conftest import Folder, png
from tests.client.server import Call, Scripted

DOCS = Path(__file__).parents[2] / "docs"
PAGES = ("client.md", "client.zh-CN.md")


def blocks(page: str, kind: str) -> list[str]:
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", (DOCS / page).read_text("utf-8"), re.DOTALL | re.MULTILINE)
    return [text for name, text in fenced if name == kind]


def commands() -> list[str]:
    return [line for block in blocks("client.md", "") for line in block.splitlines() if line.startswith("homescope ")]


@pytest.fixture
def here(server: Scripted, charts: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which the page's examples find what they name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DASHSCOPE_HTTP_BASE_URL", server.url)
    monkeypatch.setenv("DASHSCOPE_API_KEY", "sk-test")
    charts(2)
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans" / "a.jpg").write_bytes(png(7, kind="JPEG"))
    (tmp_path / "manifest.csv").write_text("image,company\ncharts/chart-1.png,Acme\n")
    canvas = Canvas("report.pdf", (300, 200))
    canvas.drawString(40, 100, "page 1")
    canvas.save()
    return tmp_path


@pytest.mark.parametrize("number", range(3))
async def test_programs(here: Path, server: Scripted, number: int, capsys: pytest.CaptureFixture[str]) -> None:
    def reply(call: Call) -> replies.Reply:
        if "x-dashscope-sse" in call.headers:
            return replies.spoken("a ", "chart")
        return replies.answer('{"year": 2024, "revenue": 15.1}')

    server.default = reply
    program = blocks("client.md", "python")[number]
    code = compile(program, "client.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    names: dict[str, Any] = {"__name__": "example"}
    running = eval(code, names)
    if inspect.isawaitable(running):
        await running
    said = capsys.readouterr().out
    assert ("2024" in said, "15.1\na chart" in said, "2 0 0\n" in said)[number], said


@pytest.mark.parametrize("command", [command for command in commands() if "s3://" not in command])
def test_commands(here: Path, server: Scripted, command: str) -> None:
    result = CliRunner().invoke(main, shlex.split(command)[1:] if "*" not in command else _expanded(command))
    assert result.exit_code == 0, result.output
    assert server.calls or "--dry-run" in command


def _expanded(command: str) -> list[str]:
    """As a shell does it."""
    words = shlex.split(command)[1:]
    return [name for word in words for name in (sorted(map(str, Path().glob(word))) if "*" in word else [word])]


def test_both_pages_have_the_same_code() -> None:
    for kind in ("python", ""):
        assert blocks(PAGES[0], kind) == blocks(PAGES[1], kind)


@pytest.mark.parametrize("page", PAGES)
def test_options_that_it_names_exist(page: str) -> None:
    named = set(re.findall(r"(--[a-z][a-z-]+)", (DOCS / page).read_text("utf-8")))
    assert named <= {option for each in main.commands["batch"].params for option in each.opts}
