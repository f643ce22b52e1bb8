"""Triton as a replica, against the real Triton server of the pytriton wheel.

Its model is a Python one with the inputs and outputs of the vLLM backend, which itself needs a GPU and is not run here.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from serving.doctor.engines import engines
from serving.engine.connection import connected
from serving.engine.triton import Triton
from serving.errors import ContextTooLong, EngineUnavailable, InvalidRequest
from serving.generation import Caller, Chunk, Generation, Image, Message, ResponseFormat, Sampling, Text, Tools, Video
from serving.settings import Settings
from tests.deploy.tools import environment
from tests.ports import free_port

pytestmark = [pytest.mark.deploy, pytest.mark.timeout(600)]

PYTRITON = "nvidia-pytriton==0.7.0"
MODEL = Path(__file__).parent / "triton_model"
LIBRARIES = "nvidia_pytriton.libs"
READY_WITHIN_S = 90
# A PNG of 3 x 2 pixels.
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAMAAAACCAIAAAASFvFNAAAAD0lEQVR4nGNgYGCAIggAABAAAbKvYjUAAAAASUVORK5CYII="


@dataclass(frozen=True)
class Server:
    url: str
    log: Path


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    # It wants a numpy older than ours.
    pytriton = environment("pytriton", PYTRITON)
    folder = tmp_path_factory.mktemp("triton")
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    site = pytriton / "lib" / f"python{version}" / "site-packages"
    triton = site / "pytriton" / "tritonserver"
    shutil.copytree(triton / "backends", folder / "backends")
    stub = triton / "python_backend_stubs" / version / "triton_python_backend_stub"
    shutil.copy(stub, folder / "backends" / "python")
    _repository(folder / "models", site)
    port, log = free_port(), folder / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [
                triton / "bin" / "tritonserver",
                *("--model-repository", folder / "models", "--backend-directory", folder / "backends"),
                *("--http-address", "127.0.0.1", "--http-port", str(port)),
                *("--allow-grpc", "false", "--allow-metrics", "false", "--exit-timeout-secs", "2"),
                *("--backend-config", f"python,shm-region-prefix-name=homescope{os.getpid()}_"),
            ],
            # The stub must find the library of the very Python whose modules it loads, and those of the wheel, beside
            # which it does not lie any more.
            env={**os.environ, "LD_LIBRARY_PATH": f"{sysconfig.get_config_var('LIBDIR')}:{site / LIBRARIES}"},
            stdout=out,
            stderr=out,
        )
    try:
        _wait(process, port, log)
        yield Server(f"triton+http://127.0.0.1:{port}/qwen3-vl", log)
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _repository(folder: Path, site: Path) -> None:
    shutil.copytree(MODEL, folder / "qwen3-vl", ignore=shutil.ignore_patterns("__pycache__"))
    code = folder / "qwen3-vl" / "1" / "model.py"
    # The stub takes the packages of the global Python, whose numpy may be one that Triton cannot read.
    code.write_text(f"import sys\nsys.path.insert(0, {str(site)!r})\n{code.read_text()}")


def _wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    with httpx.Client(trust_env=False) as client:
        for _ in range(READY_WITHIN_S * 5):
            if process.poll() is not None or "failed to load" in log.read_text():
                break
            try:
                if client.get(f"http://127.0.0.1:{port}/v2/models/qwen3-vl/ready").status_code == 200:
                    return
            except httpx.TransportError:
                pass
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.2)
    pytest.fail(f"Triton did not start: {log.read_text()[-3000:]}")


@pytest.fixture
async def triton(server: Server) -> AsyncGenerator[Triton, None]:
    replica = Triton(server.url)
    await replica.start()
    yield replica
    await replica.aclose()


def question(*parts: Text | Image | Video, **options: object) -> Generation:
    return Generation("r", Caller("k", "n"), "m", (Message("user", parts),), **options)  # type: ignore[arg-type]


async def answered(triton: Triton, generation: Generation) -> list[Chunk]:
    async with aclosing(triton.generate(generation)) as chunks:
        return [chunk async for chunk in chunks]


IMAGE = Image(f"data:image/png;base64,{PNG}")


async def test_an_answer_comes_in_pieces_and_ends_once(triton: Triton) -> None:
    assert await triton.ready()
    chunks = await answered(triton, question(IMAGE, Text("what is it?"), IMAGE))
    assert len(chunks) > 3
    assert "".join(chunk.text for chunk in chunks).startswith("2 images 3x2 3x2 ")
    assert [chunk.finish_reason for chunk in chunks if chunk.finish_reason] == ["stop"]
    assert chunks[-1].finish_reason == "stop"
    assert chunks[-1].usage.output_tokens == 4
    assert chunks[-1].usage.input_tokens > 0


async def test_parameters_arrive_as_vllm_names_them(triton: Triton) -> None:
    sampling = Sampling(temperature=0, top_k=3, max_tokens=9, seed=7, stop=("。",), presence_penalty=1.5)
    wanted = ResponseFormat("json_schema", schema={"type": "object"})
    chunks = await answered(triton, question(Text("hello"), sampling=sampling, response_format=wanted))
    told = json.loads("".join(chunk.text for chunk in chunks).removeprefix("0 images "))
    assert told == {
        "temperature": 0,
        "top_k": 3,
        "max_tokens": 9,
        "seed": 7,
        "stop": ["。"],
        "presence_penalty": 1.5,
        "structured_outputs": '{"json":{"type":"object"}}',
    }


async def test_a_length_is_a_length(triton: Triton) -> None:
    chunks = await answered(triton, question(Text("hello"), sampling=Sampling(max_tokens=1)))
    assert chunks[-1].finish_reason == "length"
    assert "".join(chunk.text for chunk in chunks) == "0 images "


async def test_several_answers_are_told_apart(triton: Triton) -> None:
    chunks = await answered(triton, question(Text("hello"), sampling=Sampling(n=2)))
    assert [(chunk.choice, chunk.finish_reason) for chunk in chunks[-2:]] == [(0, "stop"), (1, "stop")]
    assert {chunk.choice for chunk in chunks} == {0, 1}


async def test_what_the_backend_says_of_the_context_is_the_clients(triton: Triton) -> None:
    with pytest.raises(ContextTooLong, match="4096"):
        await answered(triton, question(Text("fail")))


async def test_closing_cancels_in_the_backend(triton: Triton, server: Server) -> None:
    async with aclosing(triton.generate(question(Text("wait")))) as chunks:
        assert (await anext(chunks)).text == "0 images "
    async with asyncio.timeout(20):
        while "the request was cancelled" not in server.log.read_text():  # noqa: ASYNC110
            await asyncio.sleep(0.1)


@pytest.mark.parametrize(
    ("generation", "what"),
    [
        (question(Video("https://example.com/v.mp4")), "videos"),
        (question(Text("x"), tools=Tools(())), "tools"),
        (question(Text("x"), sampling=Sampling(logprobs=1)), "logprobs"),
    ],
)
async def test_what_it_has_no_input_for_is_refused(triton: Triton, generation: Generation, what: str) -> None:
    with pytest.raises(InvalidRequest, match=what):
        await answered(triton, generation)


async def test_a_model_that_is_not_there_is_an_engine_that_is_away(server: Server) -> None:
    replica = Triton(server.url.replace("qwen3-vl", "other"))
    await replica.start()
    try:
        assert not await replica.ready()
        with pytest.raises(EngineUnavailable):
            await answered(replica, question(Text("x")))
    finally:
        await replica.aclose()


async def test_it_is_one_more_replica_of_a_pool(server: Server, tmp_path: Path) -> None:
    """Beside an engine that is away: the pool answers by Triton alone."""
    urls = (f"http://127.0.0.1:{free_port()}", server.url)
    pool = connected(Settings(data=tmp_path, engine_urls=urls))
    await pool.start()
    try:
        assert await pool.ready()
        async with aclosing(pool.generate(question(Text("hello")))) as chunks:
            texts = [chunk.text async for chunk in chunks]
        assert "".join(texts).startswith("0 images")
    finally:
        await pool.aclose()


async def test_the_doctor_tells_whether_the_model_is_ready(server: Server, tmp_path: Path) -> None:
    other = server.url.replace("qwen3-vl", "other")
    found = await engines(Settings(data=tmp_path, engine_urls=(server.url, other)))
    assert [finding.level for finding in found] == ["ok", "fail"]
