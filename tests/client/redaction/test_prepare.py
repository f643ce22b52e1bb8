"""What a session does with `prepare`: nothing leaves the machine that did not go through it."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from client import Job, Session, UnusableImage
from tests.client.conftest import png
from tests.client.server import Scripted


async def other(data: bytes) -> bytes:
    return png(7)


async def refuse(data: bytes) -> bytes:
    raise UnusableImage("it cannot be checked")


def session(server: Scripted, prepare: object = other) -> Session:
    return Session(server.url, "sk-test", prepare=prepare)  # type: ignore[arg-type]


@pytest.mark.parametrize("form", ["bytes", "path", "data"])
async def test_every_local_image_goes_through_it(server: Scripted, tmp_path: Path, form: str) -> None:
    (tmp_path / "a.png").write_bytes(png(1))
    image = {
        "bytes": png(1),
        "path": tmp_path / "a.png",
        "data": "data:image/png;base64," + base64.b64encode(png(1)).decode(),
    }[form]
    async with session(server) as asking:
        await asking.ask([image], "?")  # type: ignore[list-item]
    assert server.calls[0].image == png(7)


@pytest.mark.parametrize("image", ["https://example.com/a.png", "oss://bucket/a.png"])
async def test_what_is_elsewhere_is_not_asked_about(server: Scripted, image: str) -> None:
    async with session(server) as asking:
        with pytest.raises(UnusableImage, match="not on this machine"):
            await asking.ask(image, "?")
    assert not server.calls


@pytest.mark.parametrize("uri", ["data:image/png;base64,&", "data:image/png,plain", "data:"])
async def test_a_data_uri_that_is_none_is_refused(server: Scripted, uri: str) -> None:
    async with session(server) as asking:
        with pytest.raises(UnusableImage, match="not base64"):
            await asking.ask(uri, "?")
    assert not server.calls


async def test_failure_closes(server: Scripted) -> None:
    async with session(server, refuse) as asking:
        with pytest.raises(UnusableImage, match="cannot be checked"):
            await asking.ask([png(1), png(2)], "?")
    assert not server.calls


def test_prepared_images_are_another_job() -> None:
    assert Job("?").fingerprint == Job("?", prepared="").fingerprint != Job("?", prepared="redacted").fingerprint
