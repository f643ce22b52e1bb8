"""A short Locust run on the embedded engine, from nothing to a report: `make bench`.

python -m benchmarks.short --users 4 --seconds 30 --page bench.html
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path

import click
from rich.console import Console

from benchmarks.page import report_page
from benchmarks.processes import NotReady, homescope
from benchmarks.record import read
from benchmarks.report import report
from benchmarks.terminal import shown

_LOCUSTFILE = Path(__file__).with_name("locustfile.py")


async def _locust(users: int, seconds: int, records: Path, engine_url: str | None) -> int:
    Console(stderr=True).print("starting the server; the embedded engine takes a minute or two", style="dim")
    async with homescope(engine_url) as (url, key, _):
        command = [sys.executable, "-m", "locust", "-f", str(_LOCUSTFILE), "--headless", "--only-summary"]
        load = ["-u", str(users), "-r", str(users), "-t", f"{seconds}s", "--stop-timeout", "30"]
        where = ["--host", url, "--api-key", key, "--records", str(records)]
        process = await asyncio.create_subprocess_exec(
            *command, *load, *where, "NativeStream", "NativeSync", "MultiImage"
        )
        return await process.wait()


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--users", default=4, show_default=True, type=click.IntRange(3))
@click.option("--seconds", default=30, show_default=True, type=click.IntRange(5))
@click.option("--engine-url", help="A running vLLM.  [default: the embedded engine]")
@click.option("--page", type=click.Path(path_type=Path), help="The report as one HTML file.")
def main(users: int, seconds: int, engine_url: str | None, page: Path | None) -> None:
    """Streams, whole answers and several images at a time, for half a minute. Exit code 1: some failed."""
    with tempfile.TemporaryDirectory() as folder:
        records = Path(folder) / "records.jsonl"
        try:
            code = asyncio.run(_locust(users, seconds, records, engine_url))
        except NotReady as error:
            raise click.ClickException(str(error)) from error
        if not records.exists():
            raise click.ClickException("Locust sent nothing; its own words are above")
        run, found = read(records)
    made = report(found, run)
    shown(made, run, Console())
    if page:
        page.write_text(report_page(made, found, run), "utf-8")
    sys.exit(code)


if __name__ == "__main__":
    main()
