from __future__ import annotations

from collections.abc import AsyncGenerator

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import MalformedBody
from serving.multipart import MAX_PARTS, Form, text

TYPE = "multipart/form-data; boundary=B"


async def cut(body: bytes, size: int) -> AsyncGenerator[bytes, None]:
    for start in range(0, len(body), size):
        yield body[start : start + size]


async def fields(body: bytes, content_type: str = TYPE, size: int = 1 << 16) -> list[tuple[str, str | None, bytes]]:
    form = Form(content_type, cut(body, size))
    return [
        (part.name, part.filename, b"".join([piece async for piece in pieces])) async for part, pieces in form.fields()
    ]


def part(disposition: str, data: bytes = b"x") -> bytes:
    return b"--B\r\nContent-Disposition: form-data; " + disposition.encode() + b"\r\n\r\n" + data + b"\r\n"


def sent(**given: object) -> tuple[bytes, str]:
    """A form as a real client writes it."""
    request = httpx.Request("POST", "http://test", **given)  # type: ignore[arg-type]
    return request.read(), request.headers["content-type"]


async def test_fields_come_in_order() -> None:
    body, content_type = sent(data={"key": "中文/a b"}, files={"file": ("图 表.png", b"\x00\r\n--B\xff")})
    assert await fields(body, content_type) == [
        ("key", None, "中文/a b".encode()),
        ("file", "图 表.png", b"\x00\r\n--B\xff"),
    ]


@given(data=st.binary(max_size=200), size=st.integers(1, 50))
async def test_no_cut_of_the_body_matters(data: bytes, size: int) -> None:
    body, content_type = sent(data={"a": "1"}, files={"file": ("f", data + b"\r\n--"), "g": ("g", b"")})
    expected = [("a", None, b"1"), ("file", "f", data + b"\r\n--"), ("g", "g", b"")]
    assert await fields(body, content_type, size) == expected


async def test_bytes_that_are_not_read_are_skipped() -> None:
    body = part('name="a"', b"1" * 5000) + part('name="b"', b"2") + b"--B--"
    form = Form(TYPE, cut(body, 100))
    assert [part.name async for part, _ in form.fields()] == ["a", "b"]


@pytest.mark.parametrize(
    ("disposition", "name", "filename"),
    [
        ('name="file"', "file", None),
        ('name=file; filename=""', "file", ""),
        ("name=\"file\"; filename*=utf-8''%E4%B8%AD%E6%96%87.png", "file", "中文.png"),
        ('filename="a.png"', "", "a.png"),
        ('name="a\\"b"', 'a"b', None),
    ],
)
async def test_names(disposition: str, name: str, filename: str | None) -> None:
    assert await fields(part(disposition) + b"--B--\r\n") == [(name, filename, b"x")]


async def test_nothing_is_read_beyond_the_end() -> None:
    async def endless() -> AsyncGenerator[bytes, None]:
        yield part('name="a"') + b"--B--\r\n"
        raise AssertionError

    assert [each.name async for each, _ in Form(TYPE, endless()).fields()] == ["a"]


@pytest.mark.parametrize(
    "content_type", ["", "application/json", "multipart/form-data", "multipart/form-data; boundary=" + "b" * 300]
)
async def test_another_content_type_is_refused(content_type: str) -> None:
    with pytest.raises(MalformedBody):
        await fields(part('name="a"') + b"--B--", content_type)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"garbage",
        b"--B",
        b"--B\r\n",
        part('name="a"'),
        part('name="a"') + b"--",
        part('name="a"')[:-3],
        b"--X--\r\n",
        b"--B\r\n\x00: 1\r\n\r\n\r\n--B--",
        b"--B\r\nA: " + b"x" * 100_000 + b"\r\n\r\n\r\n--B--",
        b"--B\r\n" + b"A: x\r\n" * 1000 + b"\r\n\r\n--B--",
        part('name="a"') * (MAX_PARTS + 1) + b"--B--",
    ],
)
@pytest.mark.parametrize("size", [7, 1 << 20])
async def test_what_is_no_form_is_refused(body: bytes, size: int) -> None:
    with pytest.raises(MalformedBody):
        await fields(body, size=size)


async def test_text_is_short_and_utf8() -> None:
    assert await text(cut("中文".encode(), 2), 6) == "中文"
    for refused in (b"\xff", b"1234567"):
        with pytest.raises(MalformedBody):
            await text(cut(refused, 2), 6)
