from __future__ import annotations

import resource
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from pydantic import SecretStr

from serving.app import create_app
from serving.cli import main
from serving.doctor import engines, machine, stores
from serving.doctor.command import examined
from serving.doctor.finding import Finding
from serving.engine import hardware
from serving.engine.hardware import Gpu, Machine
from serving.settings import Settings
from serving.storage.migrations import HEAD
from tests.fakes import FakeEngine
from tests.serving.conftest import listening
from tests.serving.engine.fake_vllm import DONE, ROLE, FakeVLLM, event, final

ANSWER = [ROLE, event("a gradient", "stop", completion=3), final(prompt=90, completion=3, image=80), DONE]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data=tmp_path / "data", port=0)


def assert_told(finding: Finding, level: str, *said: str) -> None:
    assert finding.level == level, finding
    assert all(part in str(finding) for part in said), finding
    assert "\n" not in str(finding)


@pytest.mark.ring3
async def test_a_healthy_engine_and_one_request(settings: Settings) -> None:
    fake = FakeVLLM(answers=[ANSWER])
    async with listening(fake.app) as url:
        found = {each.check: each async for each in examined(settings.model_copy(update={"engine_urls": (url,)}))}
    assert_told(found["engine"], "ok", url, "vLLM 0.32.0")
    assert_told(found["request"], "ok", "answered in", "90 tokens in, 3 out")
    for check in ("versions", "clock", "port", "database", "object store"):
        assert_told(found[check], "ok")
    assert fake.asked[0]["messages"][-1]["content"][0]["type"] == "image_url"
    assert not list(settings.data.glob("*.db*")), "the real database is left alone"


async def test_an_engine_that_is_away_refuses_the_request(settings: Settings) -> None:
    away = settings.model_copy(update={"engine_urls": ("http://127.0.0.1:9",)})
    (finding,) = await engines.engines(away)
    assert_told(finding, "fail", "http://127.0.0.1:9", "does vLLM run there?")
    assert_told(await engines.request(away), "fail", "503")


@pytest.mark.ring3
async def test_an_engine_of_another_version_and_one_that_is_none(settings: Settings) -> None:
    fake = FakeVLLM(version="0.9.1")
    async with listening(fake.app) as url:
        chosen = settings.model_copy(update={"engine_urls": (url, "ftp://host", "dns+http://nowhere.invalid:1")})
        old, wrong, unknown = await engines.engines(chosen)
        fake.models = []
        unnamed = (await engines.engines(chosen))[0]
        fake.alive = False
        starting = (await engines.engines(chosen))[0]
    assert_told(old, "warn", "0.9.1", "0.32")
    assert_told(wrong, "fail", "ftp://host")
    assert_told(unknown, "fail", "cannot be looked up")
    assert_told(unnamed, "fail", "names no model")
    assert_told(starting, "fail", "503")


async def test_the_database(settings: Settings, key: str) -> None:
    assert_told(await stores.database(settings), "ok", HEAD)
    (settings.data / "homescope.db").write_bytes(b"no database" * 1000)
    assert_told(await stores.database(settings), "fail", "not a database", "HOMESCOPE_DATA")
    away = settings.model_copy(update={"database": SecretStr("postgresql://u:hunter2@127.0.0.1:9/x")})
    finding = await stores.database(away)
    assert_told(finding, "fail", "HOMESCOPE_DATABASE")
    assert "hunter2" not in str(finding)


async def test_stores_that_are_away(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    update = {"cache": "redis://127.0.0.1:9/0", "redis_url": SecretStr("redis://:hunter2@127.0.0.1:9/0")}
    away = settings.model_copy(update={**update, "objects": str(tmp_path / "file" / "x")})
    assert_told(await stores.cache(away), "fail", "HOMESCOPE_CACHE")
    counters = await stores.counters(away)
    assert_told(counters, "fail", "HOMESCOPE_REDIS_URL")
    assert "hunter2" not in str(counters)
    assert_told(await stores.object_store(away), "fail", "HOMESCOPE_OBJECTS")


async def test_the_data_folder(settings: Settings, tmp_path: Path) -> None:
    assert_told(await machine.data_folder(settings), "ok", "free")
    settings.data.chmod(0o755)
    assert_told(await machine.data_folder(settings), "warn", "chmod 700")
    (tmp_path / "file").touch()
    broken = settings.model_copy(update={"data": tmp_path / "file" / "data"})
    assert_told(await machine.data_folder(broken), "fail", "HOMESCOPE_DATA")


@pytest.mark.ring3
async def test_the_port_of_a_running_server_is_fine_and_that_of_another_is_not(
    settings: Settings, engine: FakeEngine
) -> None:
    async with listening(create_app(settings, engine)) as url:
        ours = settings.model_copy(update={"port": int(url.rpartition(":")[2])})
        assert_told(await machine.port(ours), "ok", "ready")
    async with listening(FakeVLLM().app) as url:
        taken = settings.model_copy(update={"port": int(url.rpartition(":")[2])})
        assert_told(await machine.port(taken), "fail", "HOMESCOPE_PORT")


@pytest.fixture
def _few_files() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.usefixtures("_few_files")
async def test_few_open_files(settings: Settings) -> None:
    assert_told(await machine.open_files(settings), "fail", "512", "ulimit -n 1280")


@pytest.mark.ring3
def test_the_command(tmp_path: Path) -> None:
    """With an engine that is away: one line for each check, and exit code 1."""
    env = {"HOMESCOPE_DATA": str(tmp_path), "HOMESCOPE_PORT": "0"}
    done = CliRunner().invoke(main, ["doctor", "--engine-url", "http://127.0.0.1:9"], env=env, catch_exceptions=False)
    assert done.exit_code == 1
    lines = done.stdout.splitlines()
    assert all(line.startswith(("ok  ", "warn", "FAIL", "skip")) for line in lines), done.stdout
    assert len(lines) == 14
    assert done.stderr == ""


def test_settings_that_cannot_be_read(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["doctor"], env={"HOMESCOPE_DATA": str(tmp_path), "HOMESCOPE_PORT": "x"})
    assert (done.exit_code, len(done.stdout.splitlines())) == (1, 1)
    assert "HOMESCOPE_PORT=x" in done.stdout


async def test_a_volume_of_weights_that_is_missing_empty_or_half_full(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Docker mounts an empty folder where the one that was named is not there."""
    monkeypatch.setattr(hardware, "detect", lambda: MACHINE)
    found = settings.model_copy(update={"model": str(tmp_path / "models")})
    assert_told(await machine.accelerator(found), "fail", "no model in", "no config.json")
    (tmp_path / "models").mkdir()
    assert_told(await machine.accelerator(found), "fail", "no model in", "no config.json")
    (tmp_path / "models" / "config.json").write_text("{}")
    index = tmp_path / "models" / "model.safetensors.index.json"
    index.write_text('{"weight_map": {"a": "model-1.safetensors"}}')
    assert_told(await machine.accelerator(found), "fail", "1 of 1 files of weights", "run it again")
    (tmp_path / "models" / "model-1.safetensors").touch()
    assert_told(await machine.accelerator(found), "ok", "H200")


async def test_a_gpu_that_is_too_small(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    small = replace(MACHINE, gpus=(Gpu("GT 1030", 2.0, 6.1),))
    monkeypatch.setattr(hardware, "detect", lambda: small)
    assert_told(await machine.accelerator(settings), "fail", "GT 1030 (2 GiB)")


MACHINE = Machine("Linux x86_64", 64, 512, frozenset({"avx2"}), (Gpu("H200", 139.8, 9.0),), "gpu")
