import argparse
import asyncio
import os
import shutil
import socket
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
from rich.console import Console

from serving.demo.charts import write_samples

READ_ALL = "提取图中数据，以JSON格式输出。"
DESCRIBE = "请分析这张图表，提取公司近三年的营收数据和同比增长率，并判断增长趋势。"
REPORT_SEED = 2026
READY_WITHIN_S = 600
STOP_WITHIN_S = 30

console = Console(highlight=False, soft_wrap=True)


class DemoError(Exception):
    """A step of the demo failed; the text says which and what to do."""


def command(name: str) -> str:
    """The script `name` of the environment that runs this demo."""
    return str(Path(sys.executable).parent / name)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def shown(name: str, *arguments: str) -> None:
    words = [f'"{word}"' if " " in word or "，" in word else word for word in arguments]
    console.print(f"\n[bold green]$[/] [bold]{name} {' '.join(words)}[/]")


async def output_of(name: str, *arguments: str, env: dict[str, str]) -> str:
    child = await asyncio.create_subprocess_exec(command(name), *arguments, env=env, stdout=asyncio.subprocess.PIPE)
    out, _ = await child.communicate()
    if child.returncode != 0:
        raise DemoError(f"{name} {arguments[0]} failed with exit code {child.returncode}; its message is above.")
    return out.decode()


async def run_shown(name: str, *arguments: str, env: dict[str, str]) -> int:
    shown(name, *arguments)
    child = await asyncio.create_subprocess_exec(command(name), *arguments, env=env)
    return await child.wait()


async def until_ready(url: str, server: asyncio.subprocess.Process) -> None:
    deadline = time.monotonic() + READY_WITHIN_S
    async with httpx.AsyncClient(timeout=5) as client:
        while time.monotonic() < deadline:
            if server.returncode is not None:
                raise DemoError(f"the server stopped with exit code {server.returncode}; its message is above.")
            try:
                if (await client.get(f"{url}/readyz")).status_code == 200:
                    return
            except httpx.TransportError:
                pass  # the port is not open yet
            await asyncio.sleep(0.2)
    raise DemoError(f"the engine was not ready after {READY_WITHIN_S} s; the log named above says why.")


@asynccontextmanager
async def running_server(data: Path, env: dict[str, str]) -> AsyncIterator[str]:
    """The whole stack on a free loopback port: yields its origin once an engine can answer, stops it at the end."""
    port = free_port()
    arguments = ("run", "--host", "127.0.0.1", "--port", str(port))
    shown("homescope-server", *arguments)
    server = await asyncio.create_subprocess_exec(command("homescope-server"), *arguments, env=env)
    try:
        url = f"http://127.0.0.1:{port}"
        await until_ready(url, server)
        yield url
    finally:
        if server.returncode is None:
            server.terminate()
            try:
                await asyncio.wait_for(server.wait(), STOP_WITHIN_S)
            except TimeoutError:
                server.kill()


async def demo(folder: Path, charts: int, seed: int) -> int:
    started = time.monotonic()
    samples = emptied(folder)
    # The server's line for every request would stand between the client's own lines.
    env = os.environ | {"HOMESCOPE_DATA": str(folder / "data"), "HOMESCOPE_LOG_LEVEL": "warning"}

    key = (await output_of("homescope-server", "keys", "create", "--name", "demo", env=env)).strip().splitlines()[-1]
    async with running_server(folder / "data", env) as url:
        client_env = env | {"DASHSCOPE_HTTP_BASE_URL": f"{url}/api/v1", "DASHSCOPE_API_KEY": key.split()[-1]}
        ready_s = time.monotonic() - started
        await asyncio.to_thread(write_samples, samples, charts, seed)
        console.print(f"\nDrew {charts} charts (seed {seed}) into {relative(samples)}, what they show beside them.")

        first = sorted(samples.glob("*.png"))[0]
        await run_shown("homescope", "ask", str(relative(first)), "--prompt", DESCRIBE, "--stream", env=client_env)
        code = await run_shown(
            "homescope", "batch", str(relative(samples)),
            "--prompt", READ_ALL,
            "--out", str(relative(folder / "results.jsonl")),
            "--expected", str(relative(samples / "expected.jsonl")),
            "--page", str(relative(folder / "results.html")),
            "--min-right", "0.8",
            "--show",
            env=client_env,
        )  # fmt: skip
        report = await report_on_a_document(folder, client_env)
    total = time.monotonic() - started
    console.print(
        f"\nEngine ready after {ready_s:.0f} s, whole demo {total:.0f} s."
        f"\nOpen [bold]{relative(folder / 'results.html')}[/] to see every chart beside its answer,"
        f"\nand [bold]{relative(folder / 'report' / 'report.html')}[/] for what was found in the annual report."
        "\nKeep it running for your own programs:  make serve"
    )
    return code or report


async def report_on_a_document(folder: Path, env: dict[str, str]) -> int:
    """An annual report in, its figures in a database, an alert and a page out. A chart that the small model cannot read
    is told on the page and fails nothing."""
    arguments = ("-m", "client.samples", "--out", str(folder / "documents"), "--count", "1", "--seed", str(REPORT_SEED))
    child = await asyncio.create_subprocess_exec(sys.executable, *arguments, env=env, stdout=asyncio.subprocess.DEVNULL)
    if await child.wait() != 0:
        raise DemoError("the sample report could not be drawn; the message is above.")
    document = next((folder / "documents").glob("*.pdf"))
    code = await run_shown(
        "homescope", "report", str(relative(document)), "--out", str(relative(folder / "report")), "--show", env=env
    )
    return code if code > 1 else 0


def emptied(folder: Path) -> Path:
    """Removes what an earlier demo left in `folder`, so that every answer is a new one; the folder for the charts."""
    for name in ("charts", "data", "documents", "report"):
        shutil.rmtree(folder / name, ignore_errors=True)
    for old in folder.glob("results.*"):
        old.unlink()
    (folder / "charts").mkdir(parents=True)
    return folder / "charts"


def relative(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m serving.demo", description="Start the stack on the embedded engine and let it read charts."
    )
    parser.add_argument("--out", type=Path, default=Path("demo-out"), help="folder for charts, answers and the page")
    parser.add_argument("--charts", type=int, default=20, help="how many charts to draw and ask about")
    parser.add_argument("--seed", type=int, default=2026, help="seed of the charts")
    options = parser.parse_args()
    try:
        return asyncio.run(demo(options.out.resolve(), options.charts, options.seed))
    except DemoError as failure:
        console.print(f"[bold red]demo:[/] {failure}")
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
