from __future__ import annotations

import pytest

from client.sse import Decoder, Event

STREAM = (
    'id:1\nevent:result\n:HTTP_STATUS/200\ndata:{"text":"营业收入 1,234.5 亿元 📈"}\n\n'
    ": keep-alive\n\n"
    'id:2\r\nevent:result\r\n:HTTP_STATUS/200\r\ndata: {"a":\r\ndata: 1}\r\n\r\n'
    'id:3\revent:error\r:HTTP_STATUS/429\rdata:{"code":"Throttling"}\r\r'
    "data:plain\n\n"
).encode()
EVENTS = [
    Event("result", '{"text":"营业收入 1,234.5 亿元 📈"}', "1", 200),
    Event("result", '{"a":\n1}', "2", 200),
    Event("error", '{"code":"Throttling"}', "3", 429),
    Event("message", "plain"),
]


@pytest.mark.parametrize("cut", range(len(STREAM) + 1))
def test_every_split_point(cut: int) -> None:
    decoder = Decoder()
    assert decoder.feed(STREAM[:cut]) + decoder.feed(STREAM[cut:]) == EVENTS
    assert decoder.close() is None


def test_byte_by_byte() -> None:
    decoder = Decoder()
    assert [event for at in range(len(STREAM)) for event in decoder.feed(STREAM[at : at + 1])] == EVENTS


def test_events_without_a_blank_line_between() -> None:
    decoder = Decoder()
    assert decoder.feed(b"id:1\ndata:a\nid:2\ndata:b\n\n") == [Event("message", "a", "1"), Event("message", "b", "2")]


def test_the_last_event_needs_no_blank_line() -> None:
    decoder = Decoder()
    assert decoder.feed(b"id:1\ndata:a\n") == []
    assert decoder.close() == Event("message", "a", "1")


@pytest.mark.parametrize("broken", [b'id:1\ndata:{"out', b"id:1\n", b"", b": only a comment\n"])
def test_what_is_broken_off_is_no_event(broken: bytes) -> None:
    decoder = Decoder()
    assert decoder.feed(broken) == []
    assert decoder.close() is None


def test_a_byte_order_mark_is_passed_over() -> None:
    assert Decoder().feed("\ufeffdata:a\n\n".encode()) == [Event("message", "a")]


@pytest.mark.parametrize("comment", [":HTTP_STATUS/", ":HTTP_STATUS/oops", ":something else"])
def test_a_comment_that_is_no_status(comment: str) -> None:
    assert Decoder().feed(f"{comment}\ndata:a\n\n".encode()) == [Event("message", "a")]
