"""Local files given to the official SDK, unmodified, against a server on a real socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import dashscope
import pytest
from dashscope.utils.oss_utils import OssUtils
from dashscope.v2.errors import NotFoundError

from serving.app import create_app
from serving.settings import Settings
from tests.fakes import FakeEngine
from tests.serving.conftest import Server, listening
from tests.serving.wire import picture

T = TypeVar("T")
MODEL = "qwen3-vl-30b"
RED, BLUE = picture(size=(64, 48)), picture(size=(96, 80))

# The SDK leaves its sockets, and the file handle of some uploads, to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture
async def sdk(settings: Settings, engine: FakeEngine, key: str, ring3: None) -> AsyncGenerator[Server, None]:
    before = dashscope.base_http_api_url
    async with listening(create_app(settings, engine)) as url:
        dashscope.base_http_api_url = f"{url}/api/v1"
        yield Server(url, key)
    dashscope.base_http_api_url = before


async def in_thread(call: Callable[[], T]) -> T:
    return await asyncio.to_thread(call)


def messages(*images: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [*({"image": image} for image in images), {"text": "图中有什么？"}]}]


def seen(engine: FakeEngine) -> list[bytes]:
    """The bytes of the images of the last request, as clients had them."""
    return [image.content.data for image in engine.history[-1].images if image.content is not None]


async def ask(sdk: Server, *images: str, **options: Any) -> Any:
    call = dashscope.MultiModalConversation.call
    answer: Any = await in_thread(lambda: call(api_key=sdk.key, model=MODEL, messages=messages(*images), **options))
    if not options.get("stream"):
        assert answer.status_code == 200, answer
    return answer


NAMES = ("a.png", "图表 一.png", "no-suffix", "'quoted'.png", "👩‍💻.png")


@pytest.mark.parametrize(
    ("scheme", "name"),
    [
        *(("file://", name) for name in NAMES),
        # In a file:// value, which the SDK reads as a URL, these letters mean something else.
        *(("", name) for name in (NAMES[1], "a b+c%20.png", "a#1.png")),
    ],
)
async def test_a_local_file(sdk: Server, engine: FakeEngine, tmp_path: Path, scheme: str, name: str) -> None:
    (tmp_path / name).write_bytes(RED)
    await ask(sdk, f"{scheme}{tmp_path / name}")
    assert seen(engine) == [RED]


async def test_two_files_with_one_name(sdk: Server, engine: FakeEngine, tmp_path: Path) -> None:
    """The SDK asks for one certificate for both, and so gives both the same URL."""
    for folder, data in (("q1", RED), ("q2", BLUE)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "page.png").write_bytes(data)
    first, second = (f"file://{tmp_path}/{folder}/page.png" for folder in ("q1", "q2"))
    await ask(sdk, first, second)
    assert seen(engine) == [RED, BLUE]
    await ask(sdk, second, first, second)
    assert seen(engine) == [BLUE, RED, BLUE]


async def test_one_file_twice(sdk: Server, engine: FakeEngine, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(RED)
    await ask(sdk, str(tmp_path / "a.png"), str(tmp_path / "a.png"))
    assert seen(engine) == [RED, RED]


async def test_an_earlier_upload_beside_a_new_one(sdk: Server, engine: FakeEngine, tmp_path: Path) -> None:
    """A conversation goes on with the messages that the SDK has put URLs into."""
    (tmp_path / "a.png").write_bytes(RED)
    (tmp_path / "b.png").write_bytes(BLUE)
    upload: Any = OssUtils.upload
    url, _ = await in_thread(lambda: upload(model=MODEL, file_path=str(tmp_path / "a.png"), api_key=sdk.key))
    assert url.startswith("oss://dashscope-instant/")
    await ask(sdk, url, str(tmp_path / "b.png"), url)
    assert seen(engine) == [RED, BLUE, RED]


async def test_streamed(sdk: Server, engine: FakeEngine, tmp_path: Path) -> None:
    engine.enqueue("营收", "120亿")
    (tmp_path / "a.png").write_bytes(RED)

    def program() -> str:
        answers: Any = dashscope.MultiModalConversation.call(
            api_key=sdk.key,
            model=MODEL,
            messages=messages(f"file://{tmp_path}/a.png"),
            stream=True,
            incremental_output=True,
        )
        return "".join(part["text"] for each in answers for part in each.output.choices[0].message.content)

    assert await in_thread(program) == "营收120亿"
    assert seen(engine) == [RED]


async def test_the_asynchronous_twin(sdk: Server, engine: FakeEngine, tmp_path: Path) -> None:
    """It uploads with the blocking client, on its own loop: so it needs one that is not the server's."""
    (tmp_path / "a.png").write_bytes(RED)

    async def program() -> Any:
        async with aiohttp.ClientSession() as session:
            call: Any = dashscope.AioMultiModalConversation.call
            return await call(
                api_key=sdk.key, model=MODEL, messages=messages(f"file://{tmp_path}/a.png"), session=session
            )

    answer = await in_thread(lambda: asyncio.run(program()))
    assert answer.status_code == 200, answer
    assert seen(engine) == [RED]


async def test_the_new_client(sdk: Server, engine: FakeEngine, tmp_path: Path) -> None:
    (tmp_path / "图 表.png").write_bytes(RED)

    def program() -> str:
        with dashscope.Client(api_key=sdk.key, base_url=f"{sdk.url}/api/v1") as client:
            create: Any = client.chat.completions.create
            return str(create(model=MODEL, messages=messages(f"file://{tmp_path}/图 表.png")))

    assert "ok" in await in_thread(program)
    assert seen(engine) == [RED]


async def test_what_is_no_image_is_told(sdk: Server, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    answer: Any = await in_thread(
        lambda: dashscope.MultiModalConversation.call(
            api_key=sdk.key, model=MODEL, messages=messages(str(tmp_path / "a.png"))
        )
    )
    assert (answer.status_code, answer.code) == (400, "InvalidParameter")
    assert "0 bytes" in answer.message


async def test_files_of_the_sdk(sdk: Server, tmp_path: Path) -> None:
    path = tmp_path / "数据 a.jsonl"
    path.write_text('{"a": 1}\n')

    def program() -> tuple[Any, ...]:
        files: Any = dashscope.Files
        uploaded = files.upload(str(path), purpose="fine-tune", description="data", api_key=sdk.key)
        file_id = uploaded.output["uploaded_files"][0]["file_id"]
        listed = files.list(api_key=sdk.key)
        one = files.get(file_id, api_key=sdk.key)
        deleted = files.delete(file_id, api_key=sdk.key)
        return uploaded, listed, one, deleted, files.get(file_id, api_key=sdk.key)

    *answers, gone = await in_thread(program)
    assert [answer.status_code for answer in answers] == [200] * 4
    _, listed, one, _ = answers
    assert listed.output["total"] == 1
    assert (one.output["name"], one.output["description"], one.output["size"]) == ("数据 a.jsonl", "data", 9)
    assert (gone.status_code, gone.message) == (400, "File not found.")


async def test_files_and_models_of_the_new_client(sdk: Server, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1}\n')

    def program() -> None:
        with dashscope.Client(api_key=sdk.key, base_url=f"{sdk.url}/api/v1") as client:
            files: Any = client.files
            file = files.upload(file_path=str(path), description="data")
            assert file.name == "a.jsonl"
            assert [each.file_id for each in files.list().files] == [file.file_id]
            assert (files.get(file.file_id).size, files.get(file.file_id).purpose) == (9, "fine-tune")
            assert files.delete(file.file_id).deleted
            with pytest.raises(NotFoundError):
                files.get(file.file_id)
            assert client.models.get(MODEL).model == MODEL
            assert client.models.list(page_size=2).total_count > 2

    await in_thread(program)


async def test_models_of_the_sdk(sdk: Server) -> None:
    models: Any = dashscope.Models
    listed, one, none = await in_thread(
        lambda: (
            models.list(api_key=sdk.key),
            models.get(MODEL, api_key=sdk.key),
            models.get("none", api_key=sdk.key),
        )
    )
    assert listed.output["models"][0]["model"] == MODEL
    assert one.output["model"] == MODEL
    assert none.status_code == 404
