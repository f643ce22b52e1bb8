"""Whether the engines answer, and how long one whole request takes."""

from __future__ import annotations

import base64
import io
import tempfile
import time
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import httpx
import PIL.Image

from serving.app import create_app
from serving.doctor.finding import Finding
from serving.doctor.stores import SKEW
from serving.engine import connection, discovery, triton
from serving.settings import Settings

PATH = "/api/v1/services/aigc/multimodal-generation/generation"
TESTED = "0.32"
"""The vLLM that this version is tested with."""
WITHIN = 10.0
ANSWER_WITHIN = 120.0
KEY = "set HOMESCOPE_ENGINE_KEY to the --api-key of the engine"
QUESTION = "What is in this picture? Answer in a few words."


async def engines(settings: Settings) -> list[Finding]:
    """One finding for each engine."""
    if not settings.engine_urls:
        return [Finding("skip", "engine", "the embedded one starts with the server; --engine-url names another")]
    found = []
    for url in settings.engine_urls:
        if not url.startswith(connection.SCHEMES):
            found.append(Finding("fail", "engine", f"{url} is no address of a vLLM; write http://host:port"))
            continue
        try:
            addresses = await discovery.expand(url)
        except OSError as error:
            found.append(Finding("fail", "engine", f"{url} cannot be looked up: {error.strerror}; check the name"))
            continue
        found += [await _engine(address, settings) for address in addresses]
    return found


async def _triton(url: str) -> Finding:
    replica = triton.Triton(url)
    await replica.start()
    try:
        if await replica.ready():
            return Finding("ok", "engine", f"{url}: Triton has the model ready")
    finally:
        await replica.aclose()
    return Finding(
        "fail", "engine", f"{url}: the model is not ready; does Triton run there, with a model of this name?"
    )


async def _engine(url: str, settings: Settings) -> Finding:
    if triton.is_triton(url):
        return await _triton(url)
    base = url.rstrip("/").removesuffix("/v1")
    key = settings.engine_key
    headers = {"authorization": f"Bearer {key.get_secret_value()}"} if key else {}
    try:
        async with httpx.AsyncClient(base_url=base, headers=headers, trust_env=False, timeout=WITHIN) as client:
            health = await client.get("/health")
            models = await client.get("/v1/models")
            version = await client.get("/version")
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return Finding("fail", "engine", f"{base}: {str(error) or type(error).__name__}; does vLLM run there?")
    if models.status_code in (401, 403):
        return Finding("fail", "engine", f"{base} asks for another key; {KEY}")
    if health.status_code != 200 or models.status_code != 200:
        status = health.status_code if health.status_code != 200 else models.status_code
        return Finding("fail", "engine", f"{base} answers {status}; wait for its start, or look at its log")
    return _judged(base, models, version)


def _judged(base: str, models: httpx.Response, version: httpx.Response) -> Finding:
    try:
        model = models.json()["data"][0]
        named = str(model["id"])
    except (ValueError, LookupError, TypeError):
        return Finding("fail", "engine", f"{base} names no model; is it a vLLM?")
    context = model.get("max_model_len")
    told = _version(version)
    said = f"{base}: {named}, vLLM {told or 'of unknown version'}" + (f", context {context}" if context else "")
    apart = _apart(models.headers.get("date"))
    if apart > SKEW:
        return Finding("warn", "engine", f"{said}; its clock is {apart:.0f} s from ours, set both by NTP")
    if told is None or not told.startswith(f"{TESTED}."):
        return Finding("warn", "engine", f"{said}; {TESTED} is what this version is tested with")
    return Finding("ok", "engine", said)


def _version(answer: httpx.Response) -> str | None:
    try:
        told: Any = answer.json()["version"]
    except (ValueError, LookupError, TypeError):
        return None
    return str(told)


def _apart(date: str | None) -> float:
    """Seconds between the clock of whoever sent the header and ours."""
    try:
        return abs(parsedate_to_datetime(date or "").timestamp() - time.time())
    except ValueError:
        return 0.0


async def request(settings: Settings) -> Finding:
    """One picture and one question through the whole server, beside the one that may run: it keeps nothing."""
    if not settings.engine_urls:
        return Finding("skip", "request", "there is no --engine-url to ask")
    with tempfile.TemporaryDirectory(prefix="homescope-doctor-") as folder:
        app = create_app(_apart_from(settings, Path(folder)), connection.connected(settings))
        transport = httpx.ASGITransport(app)
        async with (
            app.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://doctor", timeout=ANSWER_WITHIN) as client,
        ):
            began = time.monotonic()
            answer = await client.post(PATH, json=_question())
            took = time.monotonic() - began
    body = answer.json()
    if answer.status_code != 200:
        said = f"answered {answer.status_code} {body.get('code')}: {body.get('message')}"
        return Finding("fail", "request", f"{said}; see the engine above, and its log")
    usage = body["usage"]
    return Finding(
        "ok",
        "request",
        f"a picture and a question answered in {took:.2f} s, {usage['input_tokens']} tokens in, "
        f"{usage['output_tokens']} out",
    )


def _apart_from(settings: Settings, folder: Path) -> Settings:
    """Settings of a server that touches nothing of the real one: neither its database nor its jobs."""
    alone = {"database": None, "redis_url": None, "objects": None, "cache": "off", "records": "off", "auth": False}
    limits = dict.fromkeys(("limit_rpm", "limit_tpm", "limit_ipm", "limit_concurrency"))
    return settings.model_copy(update={"data": folder, **alone, **limits})


def _question() -> dict[str, Any]:
    buffer = io.BytesIO()
    PIL.Image.linear_gradient("L").resize((320, 240)).save(buffer, "PNG")
    picture = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    content = [{"image": picture}, {"text": QUESTION}]
    return {
        "model": "qwen3-vl-30b",
        "input": {"messages": [{"role": "user", "content": content}]},
        "parameters": {"max_tokens": 16, "temperature": 0},
    }
