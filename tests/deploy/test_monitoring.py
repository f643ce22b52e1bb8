from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import promql_parser
import pytest
import yaml  # type: ignore[import-untyped]

from serving.access.grant import Quota
from serving.access.quota import LocalLedger
from serving.app import create_app
from serving.cache.store import Memory
from serving.engine.base import Engine
from serving.engine.connection import connected
from serving.jobs.queue import Backlog
from serving.layers.admitted import Admitted
from serving.layers.cached import Cached
from serving.layers.limited import Limited
from serving.metrics import STAGES, Metrics
from serving.processes.operators import RESTARTS, UP
from serving.server import listen, url_of
from serving.settings import Settings
from tests.deploy.tools import program
from tests.fakes import FakeEngine
from tests.ports import free_port
from tests.serving.conftest import listening

FOLDER = Path(__file__).parents[2] / "docker"
DASHBOARDS = sorted((FOLDER / "grafana" / "dashboards").glob("*.json"))
RULES = FOLDER / "prometheus" / "alerts.yaml"
NAME = re.compile(r"\bhomescope_[a-z_]+")


def expressions() -> Iterator[str]:
    for dashboard in DASHBOARDS:
        for panel in json.loads(dashboard.read_text(encoding="utf-8"))["panels"]:
            for target in panel["targets"]:
                yield target["expr"]
    for group in yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]:
        for rule in group["rules"]:
            yield rule["expr"]


@pytest.mark.parametrize("expression", list(expressions()))
def test_each_expression_can_be_parsed(expression: str) -> None:
    promql_parser.parse(expression)


def stack(engine: Engine) -> Engine:
    """All layers that have metrics."""
    cached = Cached(Admitted(engine, max_in_flight=1, max_queued=1, queue_timeout=1), Memory(1, 1))
    return Limited(cached, LocalLedger(), Quota())


async def test_each_metric_that_is_looked_at_exists(tmp_path: Path) -> None:
    pool = connected(Settings(data=tmp_path, engine_urls=("http://a", "http://b")))

    async def backlog() -> Backlog:
        return Backlog()

    told = (await Metrics(stack(pool), (), {}, backlog).text()).decode()
    known = set(re.findall(r"^# TYPE (homescope_[a-z_]+) ", told, re.MULTILINE)) | {UP, RESTARTS}
    looked_at = {name for expression in expressions() for name in NAME.findall(expression)}
    assert {re.sub("_(bucket|sum|count)$", "", name) for name in looked_at} <= known


def test_each_stage_that_is_looked_at_is_one() -> None:
    looked = {stage for expression in expressions() for stage in re.findall(r'stage="(\w+)"', expression)}
    assert looked <= set(STAGES)


async def test_prometheus_takes_the_rules() -> None:
    process = await asyncio.create_subprocess_exec(program("promtool"), "check", "rules", str(RULES))
    assert await process.wait() == 0


async def test_prometheus_takes_its_configuration() -> None:
    file = str(FOLDER / "prometheus" / "prometheus.yaml")
    process = await asyncio.create_subprocess_exec(program("promtool"), "check", "config", file)
    assert await process.wait() == 0


async def test_prometheus_scrapes_and_evaluates(tmp_path: Path) -> None:
    """A real Prometheus reads a real server, and answers each expression of the dashboards and the alerts."""
    settings = Settings(data=tmp_path / "data")
    operators = listen("127.0.0.1", 0)
    port = free_port()
    config = yaml.safe_load((FOLDER / "prometheus" / "prometheus.yaml").read_text(encoding="utf-8"))
    config["global"]["scrape_interval"] = "200ms"
    config["rule_files"] = [str(RULES)]
    (server, _engines) = config["scrape_configs"]
    server["static_configs"] = [{"targets": [url_of(operators).removeprefix("http://")]}]
    config["scrape_configs"] = [server]
    (tmp_path / "prometheus.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    prometheus = await asyncio.create_subprocess_exec(
        program("prometheus"),
        f"--config.file={tmp_path / 'prometheus.yaml'}",
        f"--storage.tsdb.path={tmp_path / 'tsdb'}",
        f"--web.listen-address=127.0.0.1:{port}",
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with (
            listening(create_app(settings, FakeEngine(), operators=operators)),
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client,
        ):
            await scraped(client)
            for expression in expressions():
                answer = await client.get("/api/v1/query", params={"query": expression})
                assert answer.json()["status"] == "success", expression
    finally:
        prometheus.terminate()
        await prometheus.wait()


async def scraped(client: httpx.AsyncClient) -> None:
    for _ in range(200):
        try:
            answer = await client.get("/api/v1/query", params={"query": "homescope_in_flight"})
            if answer.status_code == 200 and answer.json()["data"]["result"]:
                return
        except httpx.TransportError:
            pass
        await asyncio.sleep(0.1)
    pytest.fail("Prometheus has not scraped the server")
