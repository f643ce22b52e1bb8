"""Images and videos through the whole server."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import httpx
import pytest

from serving.engine.plan import DEMO_MODEL
from serving.media import assembly
from serving.media.policy import PUBLISHED, PixelPolicy, processor_of
from serving.settings import Settings, SettingsError, load
from tests.fakes import FakeEngine
from tests.serving.conftest import PATH
from tests.serving.media.filming import film
from tests.serving.media.sites import Site, site
from tests.serving.wire import chat, data_uri, picture, user


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data=tmp_path, fetch_allow=("127.0.0.1",), max_images=7, max_videos=1)


@pytest.fixture
async def images(ring3: None) -> AsyncGenerator[Site, None]:
    async with site() as found:
        yield found


async def test_an_image_by_url_reaches_the_engine_as_bytes(
    client: httpx.AsyncClient, engine: FakeEngine, images: Site
) -> None:
    url = images.url(host="127.0.0.1")
    assert (await client.post(PATH, json=chat(user({"image": url}, "?")))).status_code == 200
    (image,) = engine.history[0].images
    assert image.reference == data_uri(picture())
    assert image.content is not None
    assert image.content.tokens == 10 * 7 + 2


async def test_a_url_to_the_inside_is_refused(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    for url in ("http://127.0.0.2/a.png", "http://[::1]:1/a.png", "http://169.254.169.254/"):
        response = await client.post(PATH, json=chat(user({"image": url}, "?")))
        assert (response.status_code, response.json()["code"]) == (400, "InvalidParameter")
    assert engine.history == []


async def test_a_source_that_fails_is_told_in_the_clouds_words(client: httpx.AsyncClient, images: Site) -> None:
    images.answer("/gone", status=404)
    gone = await client.post(PATH, json=chat(user({"image": images.url("/gone", "127.0.0.1")}, "?")))
    assert gone.json()["message"] == "Failed to download multimodal content. [HTTP 404]"
    away = await client.post(PATH, json=chat(user({"image": "http://127.0.0.1:1/a.png"}, "?")))
    assert (away.status_code, away.json()["code"]) == (400, "InvalidParameter.DataInspection")


@pytest.mark.ring3
async def test_a_video_reaches_the_engine_as_frames(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    part = {"video": data_uri(film(2, size=(64, 64)), "video/mp4"), "fps": 2}
    response = await client.post(PATH, json=chat(user(part, "?")))
    assert response.status_code == 200, response.text
    (video,) = engine.history[0].videos
    assert video.content is not None
    assert len(video.content.frames) == 4


async def test_no_upload_is_looked_up_without_the_header(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    response = await client.post(PATH, json=chat(user({"image": "oss://dashscope-instant/x/y.png"}, "?")))
    assert response.status_code == 400
    assert response.json()["message"].startswith("The provided URL does not appear to be valid.")
    assert engine.history == []


def test_the_defaults_are_the_clouds() -> None:
    defaults = Settings()
    assert assembly.policy(defaults) == PixelPolicy()
    assert assembly.limits(defaults).count == 250
    assert assembly.rules(defaults).guard.hosts == frozenset()


def test_the_engines_processor_is_read_from_a_folder(tmp_path: Path) -> None:
    assert load(engine_processor=DEMO_MODEL).engine_processor == DEMO_MODEL
    assert processor_of(DEMO_MODEL) != PUBLISHED
    with pytest.raises(SettingsError, match="HOMESCOPE_ENGINE_PROCESSOR"):
        load(engine_processor=tmp_path)


def test_an_allow_list_that_says_nothing_stops_the_start() -> None:
    with pytest.raises(SettingsError, match="neither a host name nor a network"):
        load(fetch_allow="10.0.0.1/8")
