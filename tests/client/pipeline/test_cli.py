from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from client.cli import main
from client.pipeline import Work
from tests.client.conftest import Folder
from tests.client.server import Scripted


@pytest.fixture
def said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(main, ["pipeline", *arguments], catch_exceptions=False)

    return run


@pytest.mark.timeout(120)
def test_from_documents_to_results(said: object, server: Scripted, charts: Folder) -> None:
    assert callable(said)
    charts(2)
    Path("charts/notes.txt").write_text("no image")
    put = said("submit", "charts", "--prompt", "?")
    assert (put.exit_code, "2 new of 2 items in 1 documents" in put.stdout) == (1, True)
    assert "notes.txt: not an image" in put.stderr
    before = json.loads(said("status", "--json").stdout)
    assert before["documents"]["charts"]["waiting"] == 2
    place = ("--base-url", server.url, "--api-key", "sk-test")
    worked = said("work", "--until-empty", *place)
    assert (worked.exit_code, "2 items ended here; 2 done" in worked.stderr) == (0, True)
    assert "charts" in said("status").stdout
    lines = [json.loads(line) for line in said("results").stdout.splitlines()]
    assert [line["label"] for line in lines] == ["charts/chart-1.png", "charts/chart-2.png"]
    assert all(line["record"]["answer"].startswith("seen") for line in lines)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("submit", "charts"), "--prompt is missing"),
        (("submit", "nowhere", "--prompt", "?"), "no such file"),
        (("status", "--database", "mysql://here"), "postgresql://"),
        (("work", "--broker", "redis://here", "--base-url", "http://127.0.0.1:9", "--api-key", "k"), "amqp://"),
    ],
)
def test_mistakes_are_one_line(said: object, arguments: tuple[str, ...], words: str) -> None:
    assert callable(said)
    found = said(*arguments)
    assert found.exit_code == 2
    assert words in found.stderr
    assert len(found.stderr.splitlines()) == 1


def test_a_message_says_everything_but_the_image() -> None:
    item = Work("a.pdf", "page 1", 0, "0" * 64, prompt="?", schema={"type": "object"}, parameters={"temperature": 0})
    assert Work.from_json(item.to_json()) == item
    assert item.key == Work("b.pdf", "page 9", 8, "0" * 64, prompt="?", schema={"type": "object"},
                            parameters={"temperature": 0}).key  # fmt: skip
    assert item.id != Work("b.pdf", "page 9", 8, "0" * 64, prompt="?").id
