from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from client.cli import main
from tests.client import server as replies
from tests.client.conftest import Folder, png
from tests.client.server import Call, Scripted


def run(server: Scripted | None, *arguments: str | Path, **environment: str) -> Result:
    shared = {"DASHSCOPE_HTTP_BASE_URL": server.url, "DASHSCOPE_API_KEY": "sk-test"} if server else {}
    result = CliRunner().invoke(main, [str(argument) for argument in arguments], env=shared | environment)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert "Traceback" not in result.output
    return result


def lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "results" / "out.jsonl"


@pytest.fixture
def chart(tmp_path: Path) -> Path:
    path = tmp_path / "chart.png"
    path.write_bytes(png(1))
    return path


def test_ask(server: Scripted, chart: Path) -> None:
    server.script = [replies.answer("营业收入增长 8.2%")]
    result = run(server, "ask", chart, "https://example.com/b.png", "--prompt", "比较", "--parameter", "temperature=0")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "营业收入增长 8.2%\n", "")
    [call] = server.calls
    assert [part.get("image", part.get("text", ""))[:8] for part in call.content] == ["data:ima", "https://", "比较"]
    assert call.body["parameters"] == {"temperature": 0}
    assert call.body["model"] == "qwen3-vl-30b-a3b-instruct"


def test_ask_streaming(server: Scripted, chart: Path) -> None:
    server.script = [replies.spoken("one ", "two")]
    result = run(server, "ask", chart, "--prompt", "?", "--stream")
    assert (result.exit_code, result.stdout) == (0, "one two\n")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("text", "code"), [('{"v": 1}', 0), ('{"v": "x"}', 1), ("words", 1)])
def test_ask_with_a_schema(server: Scripted, chart: Path, tmp_path: Path, stream: bool, text: str, code: int) -> None:
    schema = tmp_path / "schema.json"
    schema.write_text('{"type": "object", "properties": {"v": {"type": "integer"}}}')
    server.script = [replies.spoken(text) if stream else replies.answer(text)]
    options = ["--stream"] if stream else []
    result = run(server, "ask", chart, "--prompt", "?", "--schema", schema, *options)
    assert result.exit_code == code
    assert result.stderr.startswith("error: ") is bool(code)
    if not code:
        assert json.loads(result.stdout) == {"v": 1}


def test_ask_does_not_wait_for_minutes(server: Scripted, chart: Path) -> None:
    server.script = [replies.refusal(429, "Throttling", "Requests rate limit exceeded", retry_after="60")]
    result = run(server, "ask", chart, "--prompt", "?")
    assert result.exit_code == 1
    assert "error: Requests rate limit exceeded; request req-1" in result.stderr


def test_ask_says_when_the_answer_was_cut_off(server: Scripted, chart: Path) -> None:
    server.script = [replies.answer("it goes on and", finish="length")]
    result = run(server, "ask", chart, "--prompt", "?")
    assert result.exit_code == 0
    assert "cut off" in result.stderr


def test_batch_to_the_end(server: Scripted, charts: Folder, out: Path) -> None:
    folder = charts(3)
    (folder / "notes.txt").write_text("words")
    result = run(server, "batch", folder, "--prompt", "?", "--out", out)
    assert result.exit_code == 0, result.output
    assert "4 files: 3 done, 0 failed, 1 skipped" in result.stdout
    assert "300 tokens in, 30 out" in result.stdout
    assert [line["state"] for line in lines(out)] == ["done", "done", "done", "skipped"]


def test_batch_again(server: Scripted, charts: Folder, out: Path) -> None:
    folder = charts(3)
    for _ in range(2):
        result = run(server, "batch", folder, "--prompt", "?", "--out", out)
    assert "3 done, 0 failed, 0 skipped (3 of them in an earlier run)" in result.stdout
    assert len(server.calls) == 3


def test_batch_into_the_folder_of_its_images(server: Scripted, charts: Folder) -> None:
    folder = charts(2)
    arguments: list[str | Path] = [
        "batch",
        folder,
        "--prompt",
        "?",
        "--out",
        folder / "out.jsonl",
        "--page",
        folder / "page.html",
    ]
    for name in ("out.jsonl.new", "out.jsonl.reserve", "page.html.new"):
        (folder / name).write_text("left by a run that was killed")
    for _ in range(2):
        assert "2 files: 2 done, 0 failed, 0 skipped" in run(server, *arguments).stdout


def test_batch_with_failures(server: Scripted, charts: Folder, out: Path) -> None:
    bad = png(2)
    server.default = lambda call: (
        replies.refusal(400, "InvalidParameter", "too [small]") if call.image == bad else replies.answer("ok")
    )
    result = run(server, "batch", charts(3), "--prompt", "?", "--out", out, "--quiet")
    assert result.exit_code == 1
    assert "chart-2.png: too [small]" in result.stdout
    assert "run the same command again" in result.stdout


@pytest.mark.parametrize(("least", "code"), [("0.5", 0), ("0.7", 1)])
def test_known_answers(server: Scripted, charts: Folder, out: Path, tmp_path: Path, least: str, code: int) -> None:
    right = {png(1), png(2)}
    server.default = lambda call: replies.answer('{"v": 1.0}' if call.image in right else '{"v": 7}')
    expected, page = tmp_path / "expected.jsonl", tmp_path / "page.html"
    expected.write_text("".join(f'{{"file": "chart-{n}.png", "expected": {{"v": 1}}}}\n' for n in range(1, 5)))
    result = run(
        server, "batch", charts(4), "--prompt", "?", "--out", out,
        "--expected", expected, "--min-right", least, "--page", page,
    )  # fmt: skip
    assert result.exit_code == code
    assert "2/4 charts read exactly right" in result.stdout
    assert ("fewer than 70% are exactly right" in result.stdout) is bool(code)
    assert "<strong>2/4</strong>" in page.read_text("utf-8")


@pytest.mark.parametrize(("options", "code"), [(["--min-right", "0.8"], 1), ([], 0)])
def test_known_answers_of_other_images(
    server: Scripted, charts: Folder, out: Path, tmp_path: Path, options: list[str], code: int
) -> None:
    (tmp_path / "e.jsonl").write_text('{"file": "other.png", "expected": 1}\n')
    result = run(
        server, "batch", charts(1), "--prompt", "?", "--out", out, "--expected", tmp_path / "e.jsonl", *options
    )  # fmt: skip
    assert result.exit_code == code
    assert "no known answer for any image" in result.stdout


def test_quiet_is_quiet(server: Scripted, charts: Folder, out: Path) -> None:
    result = run(server, "batch", charts(2), "--prompt", "?", "--out", out, "--quiet")
    assert (result.exit_code, result.output) == (0, "")


def test_show(server: Scripted, charts: Folder, out: Path) -> None:
    server.default = lambda call: replies.answer("two\nlines [and brackets]")
    result = run(server, "batch", charts(1), "--prompt", "?", "--out", out, "--show")
    assert "chart-1.png  two lines [and brackets]" in result.stderr


def test_a_schema_for_a_batch(server: Scripted, charts: Folder, out: Path, tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text('{"type": "object", "required": ["v"]}')
    server.default = lambda call: replies.answer('{"v": 1}' if call.image == png(1) else "{}")
    result = run(server, "batch", charts(2), "--prompt", "?", "--out", out, "--schema", tmp_path / "s.json")
    assert result.exit_code == 1
    assert [line.get("value") for line in lines(out)] == [{"v": 1}, None]
    assert "'v' is a required property" in lines(out)[1]["reason"]


MISTAKES: list[tuple[list[str], dict[str, str], str]] = [
    ([], {"DASHSCOPE_API_KEY": ""}, "no API key: pass --api-key or set DASHSCOPE_API_KEY"),
    ([], {"DASHSCOPE_HTTP_BASE_URL": ""}, "no server address: pass --base-url"),
    (["--base-url", "http://127.0.0.1:9/api/v1"], {}, "cannot reach http://127.0.0.1:9/api/v1"),
    (["--schema", "missing.json"], {}, "the schema missing.json cannot be read: No such file or directory"),
    (["--prompt", "\udcff"], {}, "bytes that are not UTF-8"),
    (["--parameter", "temperature"], {}, "is not of the form NAME=VALUE"),
]


@pytest.mark.parametrize("command", ["ask", "batch"])
@pytest.mark.parametrize(("options", "environment", "words"), MISTAKES)
def test_mistakes_are_one_line(
    server: Scripted, chart: Path, out: Path, command: str, options: list[str], environment: dict[str, str], words: str
) -> None:
    to = ["--out", str(out)] if command == "batch" else []
    result = run(server, command, chart, "--prompt", "?", *to, *options, **environment)
    assert result.exit_code == 2
    assert words in result.stderr
    assert server.calls == []


@pytest.mark.parametrize(
    ("source", "options", "words"),
    [
        ("nowhere", [], "no such file or folder: nowhere"),
        ("no*such", [], "nothing matches no*such"),
        ("a" * 300, [], "File name too long"),
        ("empty", [], "the folder empty is empty"),
        ("chart.png", ["--min-right", "0.8"], "--min-right needs --expected"),
        ("chart.png", ["--min-right", "8"], "not in the range"),
        ("chart.png", ["--concurrency", "many"], "neither auto nor a number"),
        ("chart.png", ["--concurrency", "0"], "neither auto nor a number"),
        ("chart.png", ["--expected", "gone.jsonl"], "gone.jsonl cannot be read"),
        ("chart.png", ["--schema", "chart.png"], "the schema chart.png"),
        ("text.txt", [], ""),
    ],
)
def test_batch_mistakes(
    server: Scripted, chart: Path, monkeypatch: pytest.MonkeyPatch, source: str, options: list[str], words: str
) -> None:
    monkeypatch.chdir(chart.parent)
    Path("empty").mkdir()
    Path("text.txt").write_text("words")
    result = run(server, "batch", source, "--prompt", "?", "--out", "out.jsonl", *options)
    assert result.exit_code == 2
    assert words in result.stderr
    assert server.calls == []


def test_only_files_that_are_no_images(server: Scripted, tmp_path: Path, out: Path) -> None:
    (tmp_path / "text.png").write_text("words")
    result = run(server, "batch", tmp_path / "text.png", "--prompt", "?", "--out", out)
    assert result.exit_code == 2
    assert "none of the 1 files is an image that can be sent" in result.stdout
    assert lines(out)[0]["reason"] == "not an image"


def test_nothing_to_ask_about(server: Scripted, tmp_path: Path) -> None:
    (tmp_path / "chart-folder").mkdir()
    result = run(server, "batch", f"{tmp_path}/chart-*", "--prompt", "?", "--out", tmp_path / "out.jsonl")
    assert result.exit_code == 2
    assert "there is no file to ask about" in result.stdout


def test_all_refused_alike_says_how_to_go_on(server: Scripted, charts: Folder, out: Path) -> None:
    server.default = lambda call: replies.refusal(400, "InvalidParameter", "Range of top_p should be (0.0, 1.0]")
    result = run(server, "batch", charts(40), "--prompt", "?", "--out", out)
    assert result.exit_code == 2
    assert "error: Range of top_p should be (0.0, 1.0]; " in result.stderr
    assert "--keep-going" in result.stderr
    assert "run the same command again" not in result.stdout


def test_results_into_what_is_no_file(server: Scripted, chart: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    result = run(server, "batch", chart, "--prompt", "?", "--out", tmp_path / "pipe")
    assert result.exit_code == 2
    assert "is not a regular file" in result.stderr
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("pipe")] == ["pipe"]
    assert (tmp_path / "pipe").is_fifo()


def test_a_file_of_somebody_else(server: Scripted, chart: Path, tmp_path: Path) -> None:
    out = tmp_path / "precious.jsonl"
    out.write_text("precious\n")
    result = run(server, "batch", chart, "--prompt", "?", "--out", out)
    assert result.exit_code == 2
    assert "choose another --out" in result.stderr
    assert out.read_text() == "precious\n"


@pytest.mark.parametrize("under", ["file", "file/deeper"])
def test_a_results_folder_that_cannot_be(server: Scripted, chart: Path, tmp_path: Path, under: str) -> None:
    (tmp_path / "file").write_text("not a folder")
    result = run(server, "batch", chart, "--prompt", "?", "--out", tmp_path / under / "out.jsonl")
    assert result.exit_code == 2
    assert "cannot be made" in result.stderr


@pytest.mark.parametrize(
    ("reply", "advice"),
    [
        (replies.refusal(401, "InvalidApiKey", "Invalid API-key provided."), "check --api-key or DASHSCOPE_API_KEY"),
        (replies.refusal(404, "ModelNotFound", "Model can not be found."), "check --model"),
    ],
)
@pytest.mark.parametrize("command", ["ask", "batch"])
def test_the_servers_words_and_what_to_do(
    server: Scripted, charts: Folder, out: Path, reply: replies.Reply, advice: str, command: str
) -> None:
    server.default = lambda call: reply
    folder = charts(50)
    arguments = [folder, "--out", out] if command == "batch" else [folder / "chart-1.png"]
    result = run(server, command, *arguments, "--prompt", "?")
    assert result.exit_code == 2
    assert advice in result.stderr
    assert "request req-1" in result.stderr
    assert result.stderr.count("\n") == 1
    assert len(server.calls) < 10


def test_ask_about_something_else(server: Scripted, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("words")
    for name, words in (("text.png", "not an image"), ("gone.png", "No such file")):
        result = run(server, "ask", tmp_path / name, "--prompt", "?")
        assert result.exit_code == 2
        assert words in result.stderr


def test_a_page_that_cannot_be_written(server: Scripted, chart: Path, out: Path, tmp_path: Path) -> None:
    result = run(server, "batch", chart, "--prompt", "?", "--out", out, "--page", tmp_path / "no" / "page.html")
    assert "could not be written: No such file or directory; the results are in" in result.stderr
    assert len(lines(out)) == 1


def test_the_model_is_asked_by_its_name(server: Scripted, chart: Path, out: Path) -> None:
    seen: list[Call] = server.calls
    run(server, "batch", chart, "--prompt", "?", "--out", out, "--model", "qwen3-vl-plus")
    assert seen[0].body["model"] == "qwen3-vl-plus"
