"""What the gateway costs: CPU per request and memory before a mock engine, images per second before a real one.

    python -m benchmarks.gateway_overhead cpu
    python -m benchmarks.gateway_overhead ratio

`cpu` reads the CPU time of the gateway's process, so that other load on the machine hardly shows. `ratio` starts the
server with its embedded engine, asks that engine about charts directly and through the gateway in turns, and compares
the images per second, whole answers with whole ones and streams with streams. Both sides see the same charts, apart
from one pixel, so that no cache of the engine knows a picture already. Both print JSON, and keep it with --out.
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
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import PIL.Image
import PIL.ImageDraw
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


def openai(image: str, model: str, stream: bool) -> bytes:
    """The same question to the engine itself."""
    content = [{"type": "image_url", "image_url": {"url": image}}, {"type": "text", "text": PROMPT}]
    messages = [{"role": "user", "content": content}]
    streaming = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
    return orjson.dumps({"model": model, "messages": messages, "temperature": 0.0, "max_tokens": 128, **streaming})


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
async def gateway(engine_url: str | None) -> AsyncGenerator[Target, None]:
    """A server with keys and logs as in service, before the engine at `engine_url` or an embedded one."""
    port = free_port()
    with tempfile.TemporaryDirectory() as data:
        arguments = ("serving", "run", "--port", str(port), *(("--engine-url", engine_url) if engine_url else ()))
        with child(*arguments, HOMESCOPE_DATA=data) as process:
            assert process.stdout is not None
            key = (await asyncio.to_thread(process.stdout.readline)).split()[-1]
            url = f"http://127.0.0.1:{port}"
            await until_ready(f"{url}/readyz")
            headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
            yield Target(url + PATH, headers, psutil.Process(process.pid))


async def until_ready(url: str) -> None:
    async with aiohttp.ClientSession() as session:
        for _ in range(3000):
            try:
                async with session.get(url) as response:
                    if response.status == 200:
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.1)
    raise SystemExit(f"{url} was not ready within five minutes")


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


def chart(seed: int, mark: int) -> str:
    """A plain bar chart, different for each seed; `mark` changes one pixel."""
    rng = random.Random(seed)
    image = PIL.Image.new("RGB", (480, 320), "white")
    draw = PIL.ImageDraw.Draw(image)
    for bar in range(5):
        left, height = 40 + 85 * bar, rng.randrange(30, 250)
        draw.rectangle((left, 290 - height, left + 50, 290), fill=rng.choice(("navy", "teal", "brown", "gray")))
        draw.text((left, 275 - height), f"{rng.uniform(1, 999):.1f}", fill="black", font_size=16)
        draw.text((left, 295), str(2020 + bar), fill="black", font_size=16)
    draw.point((0, 0), fill=(mark % 256, mark // 256, 0))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return data_uri(buffer.getvalue())


def embedded_engine(server: psutil.Process) -> Target:
    """The vLLM that the server has started, by its own address and key."""
    for process in server.children(recursive=True):
        command = process.cmdline()
        if "--port" in command and "VLLM_API_KEY" in process.environ():
            url = f"http://127.0.0.1:{command[command.index('--port') + 1]}/v1"
            headers = {"authorization": f"Bearer {process.environ()['VLLM_API_KEY']}"}
            return Target(f"{url}/chat/completions", headers | {"content-type": "application/json"})
    raise SystemExit("the server has started no engine")


async def measure_ratio(rounds: int, concurrency: int, images: int) -> dict[str, Any]:
    """Images per second straight and through the gateway, in turns."""
    async with gateway(None) as through:
        assert through.process is not None
        targets = {"bare": embedded_engine(through.process), "gateway": through}
        forms = {
            "whole": await compare(targets, rounds, concurrency, images, stream=False),
            "streamed": await compare(targets, rounds, concurrency, images, stream=True),
        }
        rss = through.process.memory_info().rss
    settings = {"images_per_turn": images, "turns": rounds, "concurrency": concurrency}
    return {**settings, **forms, "rss_mb": round(rss / 1e6, 1)}


async def compare(
    targets: dict[str, Target], rounds: int, concurrency: int, images: int, stream: bool
) -> dict[str, float]:
    speeds: dict[str, list[float]] = {name: [] for name in targets}
    for number in range(-1, rounds):
        for name in ("bare", "gateway") if number % 2 else ("gateway", "bare"):
            mark = 4 * (number + 1) + 2 * stream + (name == "bare")
            charts = [chart(images * (number + 1) + each, mark) for each in range(images)]
            bodies = [openai(uri, "qwen3-vl-30b", stream) if name == "bare" else native(uri) for uri in charts]
            seconds = await load(asked(targets[name], stream), bodies, concurrency)
            if number >= 0:  # the first turn warms up
                speeds[name].append(images / seconds)
    # The mean of n rates over equal amounts of work is the harmonic one.
    overall = {name: statistics.harmonic_mean(values) for name, values in speeds.items()}
    pairs = [through / bare for through, bare in zip(speeds["gateway"], speeds["bare"], strict=True)]
    return {
        "images_per_second_bare": round(overall["bare"], 3),
        "images_per_second_gateway": round(overall["gateway"], 3),
        "ratio": round(overall["gateway"] / overall["bare"], 4),
        "median_ratio_of_turns": round(statistics.median(pairs), 4),
    }


def asked(target: Target, stream: bool) -> Target:
    """The target with the header that has the native protocol stream; the engine looks at the body alone."""
    return replace(target, headers=target.headers | {"accept": "text/event-stream"}) if stream else target


def machine() -> dict[str, Any]:
    """What the numbers depend on. CPU time too grows on a busy machine: caches are cold, cores are shared."""
    return {
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "load_average": round(os.getloadavg()[1], 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["cpu", "ratio"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--concurrency", type=int, default=4, help="requests at a time, for ratio")
    parser.add_argument("--images", type=int, default=16, help="charts in each turn, for ratio")
    parser.add_argument("--pieces", type=int, default=1, help="tokens of the mock engine's answers, for cpu")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    if given.what == "cpu":
        result = uvloop.run(measure_cpu(given.rounds, given.pieces))
    else:
        result = uvloop.run(measure_ratio(given.rounds, given.concurrency, given.images))
    text = json.dumps({"benchmark": f"gateway_overhead {given.what}", **machine(), **result}, indent=2)
    print(text)
    if given.out:
        given.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
