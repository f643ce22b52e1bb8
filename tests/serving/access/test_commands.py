from __future__ import annotations

from pathlib import Path

import pytest

from tests.serving.test_cli import NO_ENGINE, assert_one_clear_line, homescope


def test_what_a_key_may_do_is_listed_in_the_words_of_the_options(tmp_path: Path) -> None:
    wanted = ["--scope", "text-generation", "--model", "qwen3-vl-30b", "--rpm", "60", "--tpm", "9000", "--ipm", "5"]
    wanted += ["--concurrency", "2", "--max-images", "3", "--image-format", "png", "--image-host", "*.example.com"]
    wanted += ["--no-video", "--no-content", "--redact", "cn-id", "--expires", "90d"]
    homescope(tmp_path, "keys", "create", "--name", "narrow", *wanted)
    line = homescope(tmp_path, "keys", "list").stdout.splitlines()[1]
    for said in ("scope=text-generation", "model=qwen3-vl-30b", "rpm=60", "tpm=9000", "ipm=5", "concurrency=2"):
        assert said in line
    for said in ("max-images=3", "image-format=PNG", "image-host=*.example.com", "no-video", "no-content", "cn-id"):
        assert said in line


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--model", "gpt-5"), ("--model gpt-5", "qwen3-vl-30b")),
        (("--expires", "soon"), ("--expires soon", "90d")),
        (("--expires", "2020-01-01"), ("in the past",)),
        (("--expires", "999999w"), ("--expires 999999w",)),
        (("--redact", "("), ("--redact (", "cn-id")),
        (("--redact", "x*"), ("matches the empty text",)),
        (("--image-host", "http://x"), ("--image-host http://x", "no host name")),
    ],
)
def test_an_option_that_makes_no_sense(tmp_path: Path, options: tuple[str, ...], said: tuple[str, ...]) -> None:
    assert_one_clear_line(homescope(tmp_path, "keys", "create", "--name", "n", *options), *said)


def test_a_key_is_rotated(tmp_path: Path) -> None:
    old = homescope(tmp_path, "keys", "create", "--name", "reports").stdout.strip()
    new = homescope(tmp_path, "keys", "rotate", old[:11], "--grace", "24h").stdout.strip()
    assert new.startswith("sk-")
    assert new != old
    listed = homescope(tmp_path, "keys", "list").stdout
    assert new[:11] in listed
    assert len(listed.splitlines()) == 2
    assert_one_clear_line(homescope(tmp_path, "keys", "rotate", "sk-nobody"), "no active key", "sk-nobody")
    assert_one_clear_line(homescope(tmp_path, "keys", "rotate", new[:11], "--grace", "long"), "--grace long", "24h")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "gateway.example.com"])
def test_without_keys_only_on_a_loopback_address(tmp_path: Path, host: str) -> None:
    done = homescope(tmp_path, "run", "--no-auth", "--host", host, "--port", "0", "--engine-url", NO_ENGINE)
    assert_one_clear_line(done, host, "--no-auth", "127.0.0.1")
