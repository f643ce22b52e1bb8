from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp import web

from serving.access.grant import ImagePolicy
from serving.errors import AccessDenied, InvalidRequest, MediaUnavailable, StorageUnavailable
from serving.media.addresses import Guard
from serving.media.fetch import MAX_IDLE, Fetcher, FetchRules
from tests.serving.media.sites import HOST, Names, Site, site
from tests.serving.wire import picture

RULES = FetchRules(guard=Guard.allowing([HOST]), timeout=20)


@pytest.fixture
async def images(ring3: None) -> AsyncGenerator[Site, None]:
    async with site() as found:
        yield found


@pytest.fixture
async def fetcher() -> AsyncGenerator[Fetcher, None]:
    fetcher = Fetcher(RULES, resolver=Names({HOST: [["127.0.0.1"]]}))
    yield fetcher
    await fetcher.aclose()


async def fetch(reference: str, rules: FetchRules, names: Names | None = None) -> bytes:
    fetcher = Fetcher(rules, resolver=names or Names({HOST: [["127.0.0.1"]]}))
    try:
        return await fetcher.image(reference)
    finally:
        await fetcher.aclose()


async def refusal(reference: str, rules: FetchRules = RULES, names: Names | None = None) -> str:
    with pytest.raises(InvalidRequest) as raised:
        await fetch(reference, rules, names)
    return raised.value.message


async def test_an_image_comes_with_the_host_it_was_asked_of(fetcher: Fetcher, images: Site) -> None:
    assert await fetcher.image(images.url("/a.png?size=1")) == picture()
    (request,) = images.requests
    assert request.host == f"{HOST}:{images.port}"
    assert request.path_qs == "/a.png?size=1"
    assert "DashScopeUserBot" in request.headers["User-Agent"]
    assert request.headers["Accept-Encoding"] == "identity"
    assert "Cookie" not in request.headers


async def test_fetching_can_be_switched_off(images: Site) -> None:
    assert "fetches no URLs" in await refusal(images.url(), replace(RULES, enabled=False))
    assert images.requests == []


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_followed(fetcher: Fetcher, images: Site, status: int) -> None:
    images.answer("/1", status=status, Location="/2")
    images.answer("/2", status=status, Location=images.url("/3"))
    images.answer("/3", status=status, Location="a.png#top")
    assert await fetcher.image(images.url("/1")) == picture()


@pytest.mark.parametrize("kind", ["image", "video"])
async def test_a_redirect_leads_to_hosts_of_the_key_alone(images: Site, tmp_path: Path, kind: str) -> None:
    fetcher = Fetcher(
        replace(RULES, guard=Guard.allowing([HOST, "other.test"])),
        resolver=Names({HOST: [["127.0.0.1"]], "other.test": [["127.0.0.1"]]}),
    )
    images.answer("/away", status=302, Location=images.url("/a.png", "other.test"), Content_Type="video/mp4")
    policy = ImagePolicy(hosts=(HOST,))
    leaving = (
        fetcher.image(images.url("/away"), policy)
        if kind == "image"
        else fetcher.video(images.url("/away"), tmp_path / "v", policy)
    )
    with pytest.raises(AccessDenied, match=r"may not send images from 'other\.test', but from: images\.test"):
        await leaving
    assert [request.path for request in images.requests] == ["/away"]
    assert await fetcher.image(images.url("/away")) == picture()
    with pytest.raises(AccessDenied):
        await fetcher.image(images.url("/a.png", "other.test"), policy)
    await fetcher.aclose()


async def test_who_may_not_follow_a_redirect_does_not_join_who_may(images: Site) -> None:
    gate = asyncio.Event()
    fetcher = Fetcher(
        replace(RULES, guard=Guard.allowing([HOST, "other.test"])),
        resolver=Names({HOST: [["127.0.0.1"]], "other.test": [["127.0.0.1"]]}),
    )

    async def slow(_: web.Request) -> web.Response:
        await gate.wait()
        return web.Response(status=302, headers={"Location": images.url("/a.png", "other.test")})

    images.replies["/away"] = slow
    free = asyncio.create_task(fetcher.image(images.url("/away")))
    bound = asyncio.create_task(fetcher.image(images.url("/away"), ImagePolicy(hosts=(HOST,))))
    await images.began.wait()
    gate.set()
    assert await free == picture()
    with pytest.raises(AccessDenied):
        await bound
    await fetcher.aclose()


async def test_the_fourth_redirect_is_one_too_many(images: Site) -> None:
    images.answer("/loop", status=302, Location="/loop")
    assert "more than 3 redirects" in await refusal(images.url("/loop"))
    assert len(images.requests) == 4


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (404, "Failed to download multimodal content. [HTTP 404]"),
        (500, "Failed to download multimodal content. [HTTP 500]"),
        (206, "Failed to download multimodal content. [HTTP 206]"),
        (304, "Failed to download multimodal content. [HTTP 304]"),
        (302, "Failed to download multimodal content. [HTTP 302]"),
        (401, "Don't have authorization to access the media resource during the data inspection process. [HTTP 401]"),
        (403, "Don't have authorization to access the media resource during the data inspection process. [HTTP 403]"),
    ],
)
async def test_an_answer_other_than_200_is_told(images: Site, status: int, words: str) -> None:
    assert await refusal(images.answer("/x", status=status)) == words


async def test_a_name_that_does_not_resolve() -> None:
    with pytest.raises(MediaUnavailable, match=r"the host nowhere\.test cannot be resolved"):
        await fetch("http://nowhere.test/a.png", RULES)


async def test_a_port_where_nobody_listens(images: Site) -> None:
    with pytest.raises(MediaUnavailable, match="Unable to download the media resource") as raised:
        await fetch(f"http://{HOST}:1/a.png", RULES)
    assert raised.value.code == "InvalidParameter.DataInspection"


async def test_a_server_that_breaks_off(images: Site) -> None:
    async def broken(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "image/png", "Content-Length": "1000"})
        await response.prepare(request)
        await response.write(b"x" * 10)
        assert request.transport is not None
        request.transport.abort()
        return response

    images.replies["/broken"] = broken
    with pytest.raises(MediaUnavailable):
        await fetch(images.url("/broken"), RULES)


async def test_a_server_that_never_answers_is_not_waited_for(images: Site) -> None:
    never = asyncio.Event()

    async def silent(request: web.Request) -> web.StreamResponse:
        await never.wait()
        raise AssertionError

    images.replies["/silent"] = silent
    with pytest.raises(MediaUnavailable, match="Download the media resource timed out"):
        await fetch(images.url("/silent"), replace(RULES, timeout=0.2))
    never.set()


async def test_what_is_too_large_by_its_announcement_is_not_read(images: Site) -> None:
    limited = replace(RULES, image_bytes=100)
    assert await refusal(images.url(), limited) == (
        f"Multimodal file size is too large [at most 100 bytes, got {len(picture())}]"
    )


async def test_what_is_too_large_without_an_announcement_is_cut_off(images: Site) -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "image/png"})
        await response.prepare(request)
        while True:
            await response.write(bytes(65536))

    images.replies["/endless"] = endless
    assert "[at most 1000000 bytes, got more]" in await refusal(
        images.url("/endless"), replace(RULES, image_bytes=1_000_000)
    )


async def test_compressed_bytes_are_not_unpacked(images: Site) -> None:
    bomb = gzip.compress(bytes(10_000_000))
    assert "compressed" in await refusal(images.answer("/bomb", bomb, Content_Encoding="gzip"))


@pytest.mark.parametrize(
    "kind", ["image/anything", "IMAGE/PNG; a=b", "application/octet-stream", "binary/octet-stream"]
)
async def test_types_of_images_and_of_nothing_are_read(fetcher: Fetcher, images: Site, kind: str) -> None:
    assert await fetcher.image(images.answer("/typed", b"...", Content_Type=kind)) == b"..."


@pytest.mark.parametrize("kind", ["text/html; charset=utf-8", "application/json", "video/mp4"])
async def test_types_of_something_else_are_refused(images: Site, kind: str) -> None:
    message = await refusal(images.answer("/typed", b"...", Content_Type=kind))
    assert message == f"Wrong Content-Type of multimodal url [{kind.partition(';')[0]}]"


async def test_the_cloud_wants_a_type_and_a_length(images: Site) -> None:
    strict = replace(RULES, strict=True)
    untyped = images.answer("/untyped", b"...", Content_Type="application/octet-stream")
    assert "Wrong Content-Type of multimodal url" in await refusal(untyped, strict)

    async def chunked(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "image/png"})
        response.enable_chunked_encoding()
        await response.prepare(request)
        await response.write(b"...")
        return response

    images.replies["/chunked"] = chunked
    assert await refusal(images.url("/chunked"), strict) == "Missing Content-Length of multimodal url."
    assert await fetch(images.url("/chunked"), RULES) == b"..."


async def test_what_is_fresh_is_not_fetched_again(fetcher: Fetcher, images: Site) -> None:
    url = images.answer("/kept", b"...", Cache_Control="max-age=60")
    assert [await fetcher.image(url) for _ in range(3)] == [b"..."] * 3
    assert len(images.requests) == 1


async def test_what_is_not_to_be_kept_is_fetched_again(fetcher: Fetcher, images: Site) -> None:
    for line in ("no-store", "private, max-age=60", "max-age=0"):
        url = images.answer("/not-kept", b"...", Cache_Control=line)
        images.requests.clear()
        await fetcher.image(url)
        await fetcher.image(url)
        assert len(images.requests) == 2, line


async def test_what_has_a_validator_is_asked_about(fetcher: Fetcher, images: Site) -> None:
    url = images.answer("/etag", b"...", ETag='"v1"', Cache_Control="no-cache")
    await fetcher.image(url)
    images.answer("/etag", status=304, ETag='"v1"')
    assert await fetcher.image(url) == b"..."
    assert images.requests[-1].headers["If-None-Match"] == '"v1"'
    images.answer("/etag", b"new", ETag='"v2"')
    assert await fetcher.image(url) == b"new"


async def test_a_herd_fetches_once(fetcher: Fetcher, images: Site) -> None:
    gate = asyncio.Event()

    async def slow(request: web.Request) -> web.StreamResponse:
        await gate.wait()
        return web.Response(body=b"...", headers={"Content-Type": "image/png"})

    images.replies["/slow"] = slow
    herd = [asyncio.create_task(fetcher.image(images.url("/slow"))) for _ in range(20)]
    await images.began.wait()
    herd[0].cancel()
    gate.set()
    assert await asyncio.gather(*herd[1:]) == [b"..."] * 19
    assert len(images.requests) == 1


async def test_the_last_to_leave_ends_the_fetch(fetcher: Fetcher, images: Site) -> None:
    left = asyncio.Event()

    async def slow(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "image/png"})
        await response.prepare(request)
        try:
            while True:
                await response.write(bytes(1000))
        except (ConnectionError, asyncio.CancelledError):
            left.set()
            raise

    images.replies["/slow"] = slow
    one, other = (asyncio.create_task(fetcher.image(images.url("/slow"))) for _ in range(2))
    await images.began.wait()
    one.cancel()
    other.cancel()
    async with asyncio.timeout(20):
        await left.wait()
    del images.replies["/slow"]
    assert await fetcher.image(images.url("/slow")) == picture()


async def test_a_failure_is_the_failure_of_all_who_waited(fetcher: Fetcher, images: Site) -> None:
    url = images.answer("/x", status=404)
    both = await asyncio.gather(fetcher.image(url), fetcher.image(url), return_exceptions=True)
    assert [type(each) for each in both] == [InvalidRequest] * 2


async def test_a_video_is_written_to_a_file(fetcher: Fetcher, images: Site, tmp_path: Path) -> None:
    body = bytes(range(256)) * 1000
    await fetcher.video(images.answer("/v.mp4", body, Content_Type="video/mp4"), tmp_path / "v")
    assert (tmp_path / "v").read_bytes() == body


async def test_a_disk_that_takes_nothing_is_not_the_clients_mistake(fetcher: Fetcher, images: Site) -> None:
    with pytest.raises(StorageUnavailable):
        await fetcher.video(images.answer("/v.mp4", bytes(1 << 20), Content_Type="video/mp4"), Path("/dev/full"))


@pytest.mark.parametrize(
    "header",
    [
        {"Cache_Control": "max-age=" + "9" * 6000},
        {"Cache_Control": "max-age=60", "Age": "9" * 6000},
        {"Expires": "Mon, 01 Jan 2035 00:00:00 " + "+9" + "9" * 3000, "Date": "Mon, 01 Jan 2035 00:00:00 GMT"},
        {"Expires": "Mon, 01 Jan " + "9" * 5000 + " 00:00:00 GMT", "Date": "Mon, 01 Jan 2035 00:00:00 GMT"},
        {"Expires": "Mon, 01 Jan 99999999999 00:00:00 GMT", "Date": "Mon, 01 Jan 2035 00:00:00 GMT"},
        {"Expires": ",", "Date": " "},
    ],
)
async def test_absurd_promises_of_a_source_break_nothing(
    fetcher: Fetcher, images: Site, header: dict[str, str]
) -> None:
    url = images.answer("/a.png", picture(), 200, **header)
    assert await fetcher.image(url) == picture()
    assert await fetcher.image(url) == picture()


@pytest.mark.parametrize("kind", ["image", "video"])
async def test_a_key_whose_hosts_hang_leaves_connections_to_others(images: Site, tmp_path: Path, kind: str) -> None:
    hanging = asyncio.Event()

    async def hang(_: web.Request) -> web.Response:
        await hanging.wait()
        return web.Response()

    images.replies["/slow"] = hang
    fetcher = Fetcher(replace(RULES, connections=10), resolver=Names({HOST: [["127.0.0.1"]]}))
    urls = [images.url(f"/slow?{number}") for number in range(20)]
    hung = [
        asyncio.create_task(
            fetcher.image(url, holder="a") if kind == "image" else fetcher.video(url, tmp_path / "v", holder="a")
        )
        for url in urls
    ]
    while len(images.requests) < 8:  # four fifths of ten  # noqa: ASYNC110
        await asyncio.sleep(0)
    assert await fetcher.image(images.url(), holder="b") == picture()
    hanging.set()
    await asyncio.gather(*hung, return_exceptions=True)
    assert await fetcher.image(images.url("/b.png"), holder="a") == picture()
    await fetcher.aclose()


async def test_a_thousand_hosts_are_no_thousand_open_connections(images: Site) -> None:
    hosts = [f"host-{number}.test" for number in range(2 * MAX_IDLE)]
    names = Names({host: [["127.0.0.1"]] for host in hosts})
    fetcher = Fetcher(replace(RULES, guard=Guard.allowing(hosts)), resolver=names)
    for host in hosts:
        await fetcher.image(images.url("/a.png", host))
    while images.connected() > MAX_IDLE:  # noqa: ASYNC110
        await asyncio.sleep(0)
    await fetcher.aclose()
