"""HTTPS by certificate files, and what proxies may say of a client."""

from __future__ import annotations

import asyncio
import signal
import ssl
import subprocess
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner

from serving.cli import main, serve
from serving.server import BadCertificate, Certificate, listen, url_of
from serving.settings import Settings
from tests.fakes import FakeEngine
from tests.serving.conftest import PATH
from tests.serving.wire import chat


@dataclass(frozen=True)
class Pair:
    """A self-signed certificate for 127.0.0.1, and its key."""

    chain: Path
    key: Path

    def copy_to(self, other: Pair) -> None:
        other.chain.write_bytes(self.chain.read_bytes())
        other.key.write_bytes(self.key.read_bytes())


def pair(folder: Path, name: str) -> Pair:
    made = Pair(folder / f"{name}.pem", folder / f"{name}.key")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
         "-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", made.key, "-out", made.chain],
        check=True,
        capture_output=True,
    )  # fmt: skip
    return made


@pytest.fixture
def first(tmp_path: Path, ring3: None) -> Pair:
    return pair(tmp_path, "first")


@pytest.fixture
def second(tmp_path: Path, ring3: None) -> Pair:
    return pair(tmp_path, "second")


@pytest.fixture(autouse=True)
def _signal_handlers() -> Iterator[None]:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@asynccontextmanager
async def served(
    settings: Settings, engine: FakeEngine, certificate: Certificate | None = None
) -> AsyncGenerator[str, None]:
    with listen("127.0.0.1", 0) as listener:
        ended = asyncio.create_task(serve(settings, listener, engine_of=lambda *_: engine, certificate=certificate))
        await asyncio.sleep(0)
        try:
            yield url_of(listener, "http" if certificate is None else "https")
        finally:
            signal.raise_signal(signal.SIGINT)
            assert await ended == 0


def trusting(*pairs: Pair) -> ssl.SSLContext:
    context = ssl.create_default_context()
    for each in pairs:
        context.load_verify_locations(each.chain)
    return context


async def test_https_by_certificate_files(settings: Settings, engine: FakeEngine, key: str, first: Pair) -> None:
    headers = {"authorization": f"Bearer {key}"}
    async with (
        served(settings, engine, Certificate(first.chain, first.key)) as url,
        httpx.AsyncClient(verify=trusting(first), headers=headers) as client,
    ):
        assert url.startswith("https://")
        assert (await client.post(url + PATH, json=chat())).status_code == 200
        issued = await client.get(url + "/api/v1/uploads?action=getPolicy&model=qwen3-vl-30b")
        assert issued.json()["data"]["upload_host"].startswith(url)
        with pytest.raises(httpx.TransportError):
            await client.get(url.replace("https", "http"))


async def test_a_renewed_certificate_is_read_at_sighup(
    settings: Settings, engine: FakeEngine, key: str, first: Pair, second: Pair
) -> None:
    live = Pair(first.chain.with_name("live.pem"), first.key.with_name("live.key"))
    first.copy_to(live)
    async with served(settings, engine, Certificate(live.chain, live.key)) as url:
        await reaches(url, first)
        live.chain.write_bytes(second.chain.read_bytes())  # half a renewal
        await hang_up()
        await reaches(url, first)
        second.copy_to(live)
        await hang_up()
        await reaches(url, second)


async def hang_up() -> None:
    """Returns when the signal has been handled: handlers of a loop run in its next round."""
    signal.raise_signal(signal.SIGHUP)
    for _ in range(3):
        await asyncio.sleep(0)


async def reaches(url: str, expected: Pair) -> None:
    async with httpx.AsyncClient(verify=trusting(expected)) as client:
        assert (await client.get(url + "/livez")).status_code == 200


def test_what_is_no_certificate_is_refused_in_a_line(tmp_path: Path, first: Pair, second: Pair) -> None:
    nothing = tmp_path / "nothing.pem"
    nothing.write_text("nothing")
    for chain, key in ((first.chain, second.key), (nothing, first.key), (tmp_path / "absent", first.key)):
        with pytest.raises(BadCertificate, match=chain.name):
            Certificate(chain, key)


def test_the_command_says_what_is_wrong_with_a_certificate(tmp_path: Path, first: Pair, second: Pair) -> None:
    data = {"HOMESCOPE_DATA": str(tmp_path / "data")}
    alone = CliRunner().invoke(main, ["run", "--tls-cert", str(first.chain)], env=data)
    assert alone.exit_code == 2
    assert "HOMESCOPE_TLS_CERT and HOMESCOPE_TLS_KEY are given together" in alone.output
    wrong = CliRunner().invoke(main, ["run", "--tls-cert", str(first.chain), "--tls-key", str(second.key)], env=data)
    assert wrong.exit_code == 2
    assert "are no certificate and its key" in wrong.output


@pytest.mark.ring3
@pytest.mark.parametrize(("trusted", "scheme"), [(("127.0.0.0/8",), "https"), (("10.0.0.0/8",), "http"), ((), "http")])
async def test_only_trusted_proxies_say_how_a_client_came(
    settings: Settings, engine: FakeEngine, key: str, trusted: tuple[str, ...], scheme: str
) -> None:
    headers = {"authorization": f"Bearer {key}", "host": "ai.example.com", "x-forwarded-proto": "https"}
    chosen = settings.model_copy(update={"trusted_proxies": trusted})
    async with served(chosen, engine) as url, httpx.AsyncClient(headers=headers) as client:
        issued = await client.get(url + "/api/v1/uploads?action=getPolicy&model=qwen3-vl-30b")
    assert issued.json()["data"]["upload_host"] == f"{scheme}://ai.example.com/oss"
