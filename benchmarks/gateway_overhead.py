"""What the gateway costs: CPU per request and memory before a mock engine, images per second before a real one.

    python -m benchmarks.gateway_overhead cpu
    python -m benchmarks.gateway_overhead ratio --engine-url http://127.0.0.1:9000 --images FOLDER

`cpu` reads the CPU time of the gateway's process, so that other load on the machine hardly shows. `ratio` sends the
same requests to the engine and through the gateway in turns and compares the images per second. Both print JSON, and
keep it with --out.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import json
import os
import platform
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import PIL.Image
import psutil
import uvloop

PATH = "/api/v1/services/aigc/multimodal-generation/generation"
PROMPT = "Read every value of the chart. Answer as JSON."


@dataclass(frozen=True)
class Target:
    """Somewhere to send requests; `process` is whose CPU counts."""

    url: str
    headers: dict[str, str]
    process: psutil.Process | None = None


def picture(size: int) -> bytes:
    """A PNG of noise, about `size` bytes: nothing in it compresses."""
    side = max(16, round((size / 3) ** 0.5))
    buffer = io.BytesIO()
    PIL.Image.frombytes("RGB", (side, side), random.Random(size).randbytes(side * side * 3)).save(buffer, "PNG")
    return buffer.getvalue()


def data_uri(image: bytes, kind: str = "png") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(image).decode()}"


def native(image: str) -> bytes:
    message = {"role": "user", "content": [{"image": image}, {"text": PROMPT}]}
    parameters = {"max_tokens": 128, "temperature": 0}
    return orjson.dumps({"model": "qwen3-vl-30b", "input": {"messages": [message]}, "parameters": parameters})


def openai(image: str, model: str) -> bytes:
    """The same question as the gateway puts it to the engine."""
    content = [{"type": "image_url", "image_url": {"url": image}}, {"type": "text", "text": PROMPT}]
    return orjson.dumps(
        {
            "model": model,
            "messages": [{"role": "user", "content": content}],
            "stream": True,
            "stream_options": {"include_usage": True, "continuous_usage_stats": True},
            "temperature": 0.0,
            "max_tokens": 128,
        }
    )


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextmanager
def child(*arguments: str, **env: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", *arguments]
    with subprocess.Popen(command, env=os.environ | env, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.terminate()


@asynccontextmanager
async def gateway(engine_url: str) -> AsyncGenerator[Target, None]:
    """A gateway of its own, with keys and logs as in service."""
    port = free_port()
    with tempfile.TemporaryDirectory() as data:
        arguments = ("serving", "run", "--port", str(port), "--engine-url", engine_url)
        with child(*arguments, HOMESCOPE_DATA=data) as process:
            assert process.stdout is not None
            key = (await asyncio.to_thread(process.stdout.readline)).split()[-1]
            url = f"http://127.0.0.1:{port}"
            await until_ready(f"{url}/readyz")
            headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
            yield Target(url + PATH, headers, psutil.Process(process.pid))


async def until_ready(url: str) -> None:
    async with aiohttp.ClientSession() as session:
        for _ in range(600):
            try:
                async with session.get(url) as response:
                    if response.status == 200:
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.1)
    raise SystemExit(f"{url} was not ready within a minute")


async def load(target: Target, bodies: list[bytes], concurrency: int) -> float:
    """Sends every body, `concurrency` at a time; seconds that it took."""
    waiting = iter(bodies)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, headers=target.headers) as session:

        async def work() -> None:
            for body in waiting:
                async with session.post(target.url, data=body) as response:
                    answer = await response.read()
                    assert response.status == 200, answer

        began = time.perf_counter()
        await asyncio.gather(*(work() for _ in range(concurrency)))
        return time.perf_counter() - began


async def cpu_per_request(target: Target, body: bytes, requests: int) -> float:
    """Milliseconds of user and system time of the process, per request."""
    assert target.process is not None
    await load(target, [body] * max(20, requests // 5), 4)
    before = target.process.cpu_times()
    await load(target, [body] * requests, 4)
    after = target.process.cpu_times()
    return (after.user + after.system - before.user - before.system) / requests * 1e3


async def measure_cpu(rounds: int, pieces: int) -> dict[str, Any]:
    port = free_port()
    result: dict[str, Any] = {"pieces_per_answer": pieces, "rounds": rounds}
    with child("benchmarks.mock_engine", "--port", str(port), "--pieces", str(pieces)):
        await until_ready(f"http://127.0.0.1:{port}/v1/models")
        async with gateway(f"http://127.0.0.1:{port}") as target:
            assert target.process is not None
            result["rss_idle_mb"] = round(target.process.memory_info().rss / 1e6, 1)
            cases = {
                "no_image": (native_text(), 2000),
                "100_kb": (native_of(100_000), 1500),
                "1_mb": (native_of(1_000_000), 300),
            }
            for name, (body, requests) in cases.items():
                runs = [await cpu_per_request(target, body, requests) for _ in range(rounds)]
                result[f"cpu_ms_{name}"] = round(statistics.median(runs), 3)
            result["rss_after_mb"] = round(target.process.memory_info().rss / 1e6, 1)
    return result


def native_of(size: int) -> bytes:
    return native(data_uri(picture(size)))


def native_text() -> bytes:
    message = {"role": "user", "content": [{"text": PROMPT}]}
    return orjson.dumps({"model": "qwen3-vl-30b", "input": {"messages": [message]}})


def read_pictures(folder: Path) -> list[str]:
    kinds = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg"}
    paths = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in kinds]
    return [data_uri(path.read_bytes(), kinds[path.suffix.lower()]) for path in paths]


async def measure_ratio(engine_url: str, key: str, folder: Path, rounds: int, concurrency: int) -> dict[str, Any]:
    """Images per second straight and through the gateway, in turns, on the same pictures."""
    uris = await asyncio.to_thread(read_pictures, folder)
    base = engine_url.rstrip("/").removesuffix("/v1")
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    async with aiohttp.ClientSession(headers=headers) as session, session.get(f"{base}/v1/models") as response:
        model = (await response.json())["data"][0]["id"]
    bare = Target(f"{base}/v1/chat/completions", headers)
    if key:
        os.environ["HOMESCOPE_ENGINE_KEY"] = key
    speeds: dict[str, list[float]] = {"bare": [], "gateway": []}
    async with gateway(engine_url) as through:
        sides = {
            "bare": (bare, [openai(uri, model) for uri in uris]),
            "gateway": (through, [native(uri) for uri in uris]),
        }
        for target, bodies in sides.values():
            await load(target, bodies, concurrency)
        for number in range(rounds):
            for name in ("bare", "gateway") if number % 2 else ("gateway", "bare"):
                target, bodies = sides[name]
                speeds[name].append(len(bodies) / await load(target, bodies, concurrency))
    ratios = [through / straight for through, straight in zip(speeds["gateway"], speeds["bare"], strict=True)]
    return {
        "images": len(uris),
        "concurrency": concurrency,
        "images_per_second_bare": round(statistics.median(speeds["bare"]), 3),
        "images_per_second_gateway": round(statistics.median(speeds["gateway"]), 3),
        "ratio_median": round(statistics.median(ratios), 4),
        "ratio_of_totals": round(
            statistics.harmonic_mean(speeds["gateway"]) / statistics.harmonic_mean(speeds["bare"]), 4
        ),
        "ratios": [round(ratio, 4) for ratio in ratios],
    }


def machine() -> dict[str, Any]:
    return {
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["cpu", "ratio"])
    parser.add_argument("--engine-url", default="http://127.0.0.1:9000")
    parser.add_argument("--engine-key", default="")
    parser.add_argument("--images", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--concurrency", type=int, default=4)
    parser.add_argument("--pieces", type=int, default=1, help="tokens of the mock engine's answers")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    if given.what == "cpu":
        result = uvloop.run(measure_cpu(given.rounds, given.pieces))
    else:
        result = uvloop.run(
            measure_ratio(given.engine_url, given.engine_key, given.images, given.rounds, given.concurrency)
        )
    text = json.dumps({"benchmark": f"gateway_overhead {given.what}", **machine(), **result}, indent=2)
    print(text)
    if given.out:
        given.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
