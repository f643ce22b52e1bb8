"""References by which a client would have the server talk to what only the server can reach."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import InvalidRequest
from serving.media.addresses import Guard, literal, meanings
from serving.media.fetch import Fetcher, FetchRules
from tests.serving.media.sites import HOST, Names, Site, site
from tests.serving.wire import picture

NO_URL = [
    "https://xn--/",
    "file:///etc/passwd",
    "ftp://images.test/a.png",
    "gopher://127.0.0.1:6379/_INFO",
    "dict://127.0.0.1:11211/stat",
    "ldap://127.0.0.1/",
    "jar:http://images.test/a.jar!/a.png",
    "javascript:alert(1)",
    "unix:///var/run/docker.sock",
    "http+unix://%2Fvar%2Frun%2Fdocker.sock/info",
    "//images.test/a.png",
    "/etc/passwd",
    "http:",
    "http://",
    "http:///a.png",
    "http://:80/a.png",
    "http://images.test:0/a.png",
    "http://images.test:99999/a.png",
    "http://images.test:port/a.png",
    "http://[::1/a.png",
    "http://images.test\\@127.0.0.1/a.png",
    "http://images.test/a.png\r\nHost: 127.0.0.1",
    "http://images.test\t/a.png",
    "http://images.test /a.png",
    "http://images.test\x00.example/a.png",
    "http://127.0.0.1%00.example/a.png",
    "http://%31%32%37.0.0.1/a.png",
    "http://user@images.test/a.png",
    "http://user:password@images.test/a.png",
    "http://:password@images.test/a.png",
    "http://images.test@127.0.0.1/a.png",
    "http://127.1/",
    "http://127.0.1/",
    "http://2130706433/",
    "http://0x7f000001/",
    "http://0x7f.0.0.1/",
    "http://0x7f.1/",
    "http://0177.0.0.1/",
    "http://017700000001/",
    "http://127.0.0.01/",
    "http://127.0.0.1./",
    "http://127.0.0.0x1/",
    "http://0/",
    "http://256.256.256.256/",
    "http://[fe80::1%25eth0]/",
    "http://[::ffff:127.0.0.1%25lo]/",
    "http://a_very-long-name" + "x" * 9000 + ".test/",
]

NOT_PUBLIC = [
    "http://127.0.0.1/",
    "http://127.255.255.254:8080/",
    "http://①②⑦.⓪.⓪.①/",
    "http://127。0。0。1/",
    "http://0.0.0.0/",
    "http://10.0.0.1/",
    "http://172.16.0.1/",
    "http://172.31.255.255/",
    "http://192.168.1.1/",
    "http://100.64.0.1/",
    "http://169.254.1.1/",
    "http://192.0.2.1/",
    "http://198.18.0.1/",
    "http://198.51.100.1/",
    "http://192.88.99.1/",
    "http://224.0.0.1/",
    "http://240.0.0.1/",
    "http://255.255.255.255/",
    "http://[::]/",
    "http://[::1]/",
    "http://[0:0:0:0:0:0:0:1]/",
    "http://[::ffff:127.0.0.1]/",
    "http://[::ffff:7f00:1]/",
    "http://[::ffff:10.0.0.1]/",
    "http://[::127.0.0.1]/",
    "http://[64:ff9b::127.0.0.1]/",
    "http://[64:ff9b::a00:1]/",
    "http://[64:ff9b:1::a00:1]/",
    "http://[2002:7f00:1::]/",
    "http://[2002:c0a8:101::1]/",
    "http://[2001:0:4136:e378:8000:63bf:3fff:fdd2]/",
    "http://[2001:db8::1]/",
    "http://[fe80::1]/",
    "http://[fec0::1]/",
    "http://[fc00::1]/",
    "http://[fd12:3456:789a::1]/",
    "http://[ff02::1]/",
    "http://[2606:4700::5efe:7f00:1]/",
]

METADATA = [
    "http://169.254.169.254/latest/meta-data/",
    "http://[::ffff:169.254.169.254]/",
    "http://[64:ff9b::169.254.169.254]/",
    "http://169.254.170.2/v2/credentials/",
    "http://100.100.100.200/latest/meta-data/",
    "http://168.63.129.16/machine",
    "http://192.0.0.192/opc/v2/",
    "http://[fd00:ec2::254]/latest/",
    "http://metadata.google.internal/computeMetadata/v1/",
    "http://METADATA.google.internal./computeMetadata/v1/",
    "http://metadata.goog/",
    "http://instance-data/latest/",
]

EVERYTHING = Guard.allowing(["0.0.0.0/0", "::/0", "metadata.google.internal"])
OPEN = FetchRules(timeout=10)


@pytest.fixture
async def images(ring3: None) -> AsyncGenerator[Site, None]:
    async with site() as found:
        yield found


async def refusal(reference: str, rules: FetchRules = OPEN, names: dict[str, list[list[str]]] | None = None) -> str:
    fetcher = Fetcher(rules, resolver=Names(names or {}))
    try:
        with pytest.raises(InvalidRequest) as raised:
            await fetcher.image(reference)
    finally:
        await fetcher.aclose()
    return raised.value.message


def test_the_corpus_is_large_enough() -> None:
    assert len({*NO_URL, *NOT_PUBLIC, *METADATA}) >= 90


@pytest.mark.parametrize("reference", NO_URL)
async def test_what_is_no_plain_url_is_refused_even_where_everything_is_allowed(reference: str) -> None:
    message = await refusal(reference, FetchRules(guard=EVERYTHING))
    assert message.startswith("The provided URL does not appear to be valid. Ensure it is correctly formatted.")


@pytest.mark.parametrize("reference", NOT_PUBLIC)
async def test_addresses_that_are_not_public_are_refused(reference: str) -> None:
    message = await refusal(reference)
    assert message.startswith("Don't have authorization to access the media resource during the data inspection")
    assert "HOMESCOPE_FETCH_ALLOW" in message


@pytest.mark.parametrize("reference", METADATA)
async def test_metadata_services_are_refused_even_where_everything_is_allowed(reference: str) -> None:
    assert "the host is a metadata service" in await refusal(reference, FetchRules(guard=EVERYTHING))


@pytest.mark.parametrize(
    "addresses",
    [["127.0.0.1"], ["93.184.215.14", "10.0.0.1"], ["::1"], ["::ffff:192.168.0.1"], ["169.254.169.254"], ["fe80::1%2"]],
)
async def test_a_name_for_any_such_address_is_refused(addresses: list[str]) -> None:
    assert "Don't have authorization" in await refusal("http://evil.test/a.png", names={"evil.test": [addresses]})


async def test_an_allowed_name_does_not_open_the_metadata_service() -> None:
    rules = FetchRules(guard=Guard.allowing(["evil.test"]))
    assert "metadata" in await refusal("http://evil.test/", rules, {"evil.test": [["169.254.169.254"]]})


async def test_an_answer_that_changes_after_the_check_is_checked_too(images: Site) -> None:
    """The first answer of the name is public. Nothing asks it for a second one between check and connection; when the
    next request does ask, the new answer is what is checked."""
    names = Names({"rebind.test": [["192.0.2.77"], ["127.0.0.1"], ["127.0.0.1"]]})
    rules = FetchRules(guard=Guard.allowing(["192.0.2.0/24"]), timeout=0.3)
    fetcher = Fetcher(rules, resolver=names)
    url = images.url("/a.png", "rebind.test")
    with pytest.raises(InvalidRequest, match="timed out"):
        await fetcher.image(url)
    assert names.asked == ["rebind.test"]
    with pytest.raises(InvalidRequest, match="authorization"):
        await fetcher.image(url)
    await fetcher.aclose()
    assert images.requests == []


@pytest.mark.parametrize(
    "location",
    [
        "http://127.0.0.1/admin",
        "http://[::1]/",
        "//127.0.0.1/",
        "http://2130706433/",
        "http://169.254.169.254/latest/meta-data/",
        "http://inside.test/",
        "file:///etc/passwd",
        "ftp://images.test/",
        "http://user:password@images.test/",
        "http://images.test:0/",
        "http://[",
    ],
)
async def test_a_redirect_is_checked_as_the_first_url_was(images: Site, location: str) -> None:
    names = {HOST: [["127.0.0.1"]], "inside.test": [["127.0.0.1"]]}
    start = images.answer("/start", status=302, Location=location)
    await refusal(start, FetchRules(guard=Guard.allowing([HOST]), timeout=10), names)
    assert len(images.requests) == 1


@pytest.mark.parametrize("allowed", [HOST, HOST.upper(), "127.0.0.0/8", "127.0.0.1"])
async def test_what_the_operator_allows_is_fetched(images: Site, allowed: str) -> None:
    rules = FetchRules(guard=Guard.allowing([allowed]), timeout=10)
    fetcher = Fetcher(rules, resolver=Names({HOST: [["127.0.0.1"]]}))
    assert await fetcher.image(images.url()) == picture()
    await fetcher.aclose()


async def test_an_allowed_network_holds_for_literal_addresses(images: Site) -> None:
    fetcher = Fetcher(FetchRules(guard=Guard.allowing(["127.0.0.0/8"]), timeout=10))
    assert await fetcher.image(images.url("/a.png", "127.0.0.1")) == picture()
    await fetcher.aclose()


@pytest.mark.parametrize(
    "reference",
    [
        "https://dashscope.oss-cn-beijing.aliyuncs.com/images/dog_and_girl.jpeg",
        "http://8.8.8.8/a.png",
        "http://[2606:4700:4700::1111]:8080/a.png",
        "https://图片.example.com/图.png?a=b&c=%20#top",
        "http://under_score.example.com./a.png",
        "HTTP://EXAMPLE.COM/a.png",
    ],
)
def test_public_urls_pass(reference: str) -> None:
    assert Guard().url(reference).host


@pytest.mark.parametrize("entry", ["10.0.0.1/8", "http://a/", "a b", "", "1.2.3", "10.0.0.0/33", "*.example.com"])
def test_an_allow_list_that_says_nothing_is_an_error(entry: str) -> None:
    with pytest.raises(ValueError, match="neither a host name nor a network"):
        Guard.allowing([entry])


@given(st.ip_addresses())
def test_every_address_means_at_least_itself_or_what_it_wraps(address: object) -> None:
    assert list(meanings(address))  # type: ignore[arg-type]


@given(st.text(min_size=1, max_size=40))
def test_no_text_breaks_the_check(text: str) -> None:
    for reference in (text, f"http://{text}/", f"https://{text}@example.com/{text}"):
        try:
            url = Guard().url(reference)
        except InvalidRequest:
            continue
        assert url.scheme in ("http", "https")
        assert url.user is None
        assert literal(url.raw_host or "") is None or url.raw_host
