from __future__ import annotations

from contextlib import aclosing
from dataclasses import replace

import httpx
import pytest

from serving.access.grant import EVERYDAY, Grant, ImagePolicy, Scope
from serving.access.keys import KeyStore
from serving.errors import AccessDenied, ModelDenied, ServingError
from serving.generation import Caller, Generation, Image, ImageContent, Message, Part, Text, Video
from serving.layers.permitted import Inspected, Permitted
from serving.settings import Settings
from serving.storage import database
from tests.fakes import FakeEngine
from tests.serving.conftest import PATH
from tests.serving.wire import chat, data_uri, picture, user

FRAMES = Video(("data:,",) * 4)
PNG = Image("data:,", ImageContent(b"x" * 100, "PNG", 20, 10))


def question(grant: Grant, *parts: Part) -> Generation:
    return Generation("r", Caller("k", "k", grant), "qwen3-vl-30b", (Message("user", (Text("hi"), *parts)),))


async def ask(grant: Grant, *parts: Part) -> None:
    async with aclosing(Permitted(Inspected(FakeEngine())).generate(question(grant, *parts))) as chunks:
        async for _ in chunks:
            pass


@pytest.mark.parametrize(
    ("grant", "parts", "said"),
    [
        (Grant(images=ImagePolicy(count=1)), (PNG, PNG), "1 images in a request, got 2"),
        (Grant(images=ImagePolicy(count=0)), (PNG,), "0 images in a request, got 1"),
        (Grant(images=ImagePolicy(bytes=99)), (PNG,), "99 bytes at most, got 100"),
        (Grant(images=ImagePolicy(pixels=199)), (PNG,), "199 pixels at most, got 200"),
        (Grant(images=ImagePolicy(formats=("JPEG", "WEBP"))), (PNG,), "JPEG, WEBP, got PNG"),
        (Grant(images=ImagePolicy(video=False)), (Video("https://a/v.mp4"),), "videos"),
        (Grant(images=ImagePolicy(hosts=("a.example",))), (Image("https://b.example/x"),), "'b.example'"),
        (Grant(images=ImagePolicy(hosts=("a.example",))), (Image(" HTTPS://b.example/x"),), "'b.example'"),
        (Grant(images=ImagePolicy(hosts=("a.example",))), (Image("http://a.example@b.example/"),), "'b.example'"),
        (Grant(images=ImagePolicy(hosts=("a.example",))), (Image("http://[a.example/"),), "''"),
        (Grant(images=ImagePolicy(hosts=("*.example",))), (Image("https://example/x"),), "'example'"),
        (Grant(images=ImagePolicy(hosts=("a.example",))), (Video(("http://a.example/1", "http://c/2")),), "'c'"),
        (Grant(scopes=EVERYDAY - {"multimodal-generation"}), (PNG,), "scope multimodal-generation"),
        (Grant(scopes=frozenset({"batches", "files"})), (), "scope multimodal-generation or text-generation"),
        (Grant(images=ImagePolicy(count=4)), (PNG, FRAMES), "4 images in a request, got 5, frames of videos included"),
    ],
)
async def test_what_a_key_may_not_send_is_refused(grant: Grant, parts: tuple[Part, ...], said: str) -> None:
    with pytest.raises(AccessDenied) as raised:
        await ask(grant, *parts)
    assert said in raised.value.message


@pytest.mark.parametrize(
    ("grant", "parts"),
    [
        (Grant(), (PNG, Video("https://a/v.mp4"))),
        (Grant(images=ImagePolicy(1, 100, 200, ("PNG",), video=False, hosts=("a.example",))), (PNG,)),
        (Grant(images=ImagePolicy(hosts=("a.example", "*.b.example"))), (Image("https://A.example./x"),)),
        (Grant(images=ImagePolicy(hosts=("*.b.example",))), (Image("http://x.y.b.example:80/x"), Image("data:,"))),
        (Grant(models=("qwen3-vl-30b",)), ()),
        (Grant(scopes=EVERYDAY - {"multimodal-generation"}), ()),
    ],
)
async def test_what_it_may_send_passes(grant: Grant, parts: tuple[Part, ...]) -> None:
    await ask(grant, *parts)


async def test_another_model_is_refused() -> None:
    with pytest.raises(ModelDenied) as raised:
        await ask(Grant(models=("other",)))
    assert raised.value.message == "Model access denied. 'qwen3-vl-30b' is none of this key's models: other."


async def test_refusals_come_before_the_engine_is_asked() -> None:
    engine = FakeEngine()
    with pytest.raises(ServingError):
        Permitted(engine).generate(replace(question(Grant(models=("other",)))))
    assert engine.history == []


@pytest.mark.parametrize(
    ("method", "path", "scope"),
    [
        ("POST", PATH, "multimodal-generation"),
        ("POST", "/api/v1/services/aigc/text-generation/generation", "text-generation"),
        ("GET", "/api/v1/tasks/x", "tasks"),
        ("GET", "/v1/files", "files"),
        ("GET", "/compatible-mode/v1/batches", "batches"),
    ],
)
async def test_each_route_asks_for_its_scope(
    client: httpx.AsyncClient, settings: Settings, method: str, path: str, scope: Scope
) -> None:
    records = database.at(settings.data)
    secret = await KeyStore(records).create("narrow", Grant(scopes=frozenset({"admin"})))
    await database.close(records)
    refused = await client.request(method, path, headers={"authorization": f"Bearer {secret}"})
    assert refused.status_code == 403
    native = path.startswith("/api/")
    told = refused.json() if native else refused.json()["error"]
    assert told["code"] == ("AccessDenied" if native else "access_denied")
    assert scope in told["message"]


async def test_the_image_policy_of_a_key_holds_for_a_whole_request(
    client: httpx.AsyncClient, settings: Settings
) -> None:
    records = database.at(settings.data)
    secret = await KeyStore(records).create("narrow", Grant(images=ImagePolicy(pixels=100)))
    await database.close(records)
    body = chat(user({"image": data_uri(picture())}, "what?"))
    refused = await client.post(PATH, json=body, headers={"authorization": f"Bearer {secret}"})
    assert (refused.status_code, refused.json()["code"]) == (403, "AccessDenied")
    assert "100 pixels at most, got 3072" in refused.json()["message"]


async def test_a_frame_of_a_list_is_an_image_to_the_policy(client: httpx.AsyncClient, settings: Settings) -> None:
    records = database.at(settings.data)
    secret = await KeyStore(records).create("narrow", Grant(images=ImagePolicy(formats=("JPEG",))))
    await database.close(records)
    body = chat(user({"video": [data_uri(picture())] * 4}, "what?"))
    refused = await client.post(PATH, json=body, headers={"authorization": f"Bearer {secret}"})
    assert refused.status_code == 403
    assert "may send JPEG, got PNG" in refused.json()["message"]


@pytest.mark.parametrize("scopes", [("batches", "files"), ("batches",)])
async def test_a_key_for_batches_alone_has_nothing_answered(
    client: httpx.AsyncClient, settings: Settings, engine: FakeEngine, scopes: tuple[Scope, ...]
) -> None:
    records = database.at(settings.data)
    secret = await KeyStore(records).create("narrow", Grant(scopes=frozenset(scopes)))
    await database.close(records)
    body = {"input_file_id": "file-1", "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    refused = await client.post("/v1/batches", json=body, headers={"authorization": f"Bearer {secret}"})
    assert refused.status_code == 403
    assert "the scope multimodal-generation or text-generation, too" in refused.json()["error"]["message"]
