"""What the clients are pointed at: the app over a scripted engine, or the cloud."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router

from serving.access.keys import KeyStore
from serving.app import create_app
from serving.engine.base import Engine
from serving.settings import Settings
from serving.storage import database
from tests.conformance.clients.driver import Ask
from tests.conformance.flows import Flow, Outcome
from tests.conformance.material import Material, film
from tests.conformance.settings import conformance_settings
from tests.fakes import FakeEngine
from tests.serving.conftest import listening

MODEL = "qwen3-vl-plus"
CLOUD_KEY = os.environ.get("DASHSCOPE_API_KEY", "")
"""Read before tests clean their environment."""
CLOUD = "https://dashscope.aliyuncs.com"
CLOUD_PICTURE = "https://dashscope.oss-cn-beijing.aliyuncs.com/images/dog_and_girl.jpeg"
CLOUD_FILM = "https://help-static-aliyun-doc.aliyuncs.com/file-manage-files/zh-CN/20241115/cqqkru/1.mp4"


class Target(Protocol):
    """`asks` is what every client is told; `prepare` comes before a flow, `outcome` after it."""

    @property
    def asks(self) -> Ask: ...

    def prepare(self, flow: Flow) -> None: ...

    def outcome(self, seen: dict[str, object]) -> Outcome: ...


@dataclass(frozen=True)
class Local:
    """The whole app on a real socket. `engine` is scripted; None where a real one answers."""

    asks: Ask
    material: Material
    engine: FakeEngine | None

    def prepare(self, flow: Flow) -> None:
        if self.engine is not None:
            self.engine.rehearse(*flow.scripts)

    def outcome(self, seen: dict[str, object]) -> Outcome:
        return Outcome(seen, None if self.engine is None else list(self.engine.history), self.material)


@dataclass(frozen=True)
class Cloud:
    asks: Ask
    material: Material

    def prepare(self, flow: Flow) -> None:
        pass

    def outcome(self, seen: dict[str, object]) -> Outcome:
        return Outcome(seen, None, self.material)


@asynccontextmanager
async def local(
    folder: Path, engine: Engine, material: Material, settings: Settings | None = None
) -> AsyncGenerator[Local, None]:
    """The app over `engine`, and beside it a server that has the picture and the film to be fetched."""
    settings = settings or conformance_settings(folder)
    key = await _key(settings)
    async with listening(create_app(settings, engine)) as url, listening(shelf(material)) as media:
        asks = material.ask(
            folder,
            native=f"{url}/api/v1",
            compatible=f"{url}/compatible-mode/v1",
            origin=url,
            key=key,
            model=MODEL,
            image_url=f"{media}/chart.png",
            video_url=f"{media}/film.mp4",
        )
        yield Local(asks, material, engine if isinstance(engine, FakeEngine) else None)


def cloud(folder: Path) -> Cloud:
    material = Material.drawn(MODEL)
    asks = material.ask(
        folder,
        native=f"{CLOUD}/api/v1",
        compatible=f"{CLOUD}/compatible-mode/v1",
        origin=f"{CLOUD}/compatible-mode",
        key=CLOUD_KEY,
        model=MODEL,
        image_url=CLOUD_PICTURE,
        video_url=CLOUD_FILM,
    )
    return Cloud(asks, material)


def shelf(material: Material) -> Router:
    """An ordinary web server of pictures and films."""
    filmed = film()

    async def chart(_: Request) -> Response:
        return Response(material.picture, media_type="image/png")

    async def video(_: Request) -> Response:
        return Response(filmed, media_type="video/mp4")

    return Router([Route("/chart.png", chart), Route("/film.mp4", video)])


async def _key(settings: Settings) -> str:
    records = database.at(settings.data)
    await database.create_tables(records, settings.data)
    secret = await KeyStore(records).create("conformance")
    await database.close(records)
    return secret
