"""`homescope compare`."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from client.addresses import API_KEY_NAME, BASE_URL_NAME
from client.compare import Comparison, Difference, Side, compare, to_json
from client.compare_page import as_page, as_table
from client.errors import HomescopeError
from client.models import DEFAULT_MODEL, Job
from client.prices import Price, published
from client.session import Session
from client.sources import check_sources, walk


@dataclass(frozen=True)
class _Server:
    """One side as it was given on the command line."""

    name: str
    url: str | None
    key: str | None
    model: str
    price: str | None

    def side(self, session: Session) -> Side:
        price = Price.parse(self.price) if self.price else published(session.base_url, self.model)
        return Side(self.name, session, self.model, price)


@click.command("compare")
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@click.option("--prompt", required=True, help="The question.")
@click.option("--base-url", help=f"The first server, with its /api/v1.  [default: ${BASE_URL_NAME}]")
@click.option("--api-key", help=f"Its key.  [default: ${API_KEY_NAME}]")
@click.option("--model", default=DEFAULT_MODEL, show_default=True, help="Its model.")
@click.option("--price", metavar="IN:OUT[:CURRENCY]", help="What a million of its tokens cost, such as 0.75:3.")
@click.option("--with", "other_url", required=True, help="The second server, such as the cloud's address.")
@click.option("--with-key", help="Its key.  [default: the first one's]")
@click.option("--with-model", help="Its model.  [default: the first one's]")
@click.option("--with-price", metavar="IN:OUT[:CURRENCY]", help="What a million of its tokens cost.")
@click.option("--names", default="first,second", show_default=True, help="Of both, for the tables.")
@click.option("--max-tokens", default=512, show_default=True, type=click.IntRange(1))
@click.option("--concurrency", default=4, show_default=True, type=click.IntRange(1, 256), help="Images at a time.")
@click.option("--limit", type=click.IntRange(1), help="At most so many images.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Each image's answers, JSON lines.")
@click.option("--page", type=click.Path(dir_okay=False, path_type=Path), help="The comparison as one HTML file.")
@click.option("--min-same", type=click.FloatRange(0, 1), help="Exit with 1 when a smaller share is the same.")
def compare_command(
    sources: Sequence[str], prompt: str, base_url: str | None, api_key: str | None, model: str, price: str | None,
    other_url: str, with_key: str | None, with_model: str | None, with_price: str | None, names: str, max_tokens: int,
    concurrency: int, limit: int | None, out: Path | None, page: Path | None, min_same: float | None,
) -> None:  # fmt: skip
    """The same question about every image to two servers: answers, tokens, seconds, cost."""
    name, _, other = names.partition(",")
    first = _Server(name or "first", base_url, api_key, model, price)
    second = _Server(other or "second", other_url, with_key or api_key, with_model or model, with_price)
    job = Job(prompt, model, parameters={"max_tokens": max_tokens, "temperature": 0})
    try:
        check_sources(sources)
        found = asyncio.run(_compare(sources, job, first, second, concurrency, limit, out))
    except* HomescopeError as group:
        raise click.ClickException(str(group.exceptions[0])) from group
    if not found.differences:
        raise click.ClickException("no image was found; name a folder or files")
    Console().print(as_table(found))
    if page:
        page.write_text(as_page(found, prompt), "utf-8")
    if _differ(found, min_same):
        click.echo(f"fewer answers are the same than --min-same {min_same:g} asks for", err=True)
    sys.exit(_code(found, min_same))


async def _compare(
    sources: Sequence[str], job: Job, first: _Server, second: _Server, concurrency: int, limit: int | None,
    out: Path | None,
) -> Comparison:  # fmt: skip
    images = [*walk(sources)][:limit]
    differences: list[Difference] = []
    console: Any = Console(stderr=True)
    async with AsyncExitStack() as stack:
        one = first.side(await stack.enter_async_context(Session(first.url, first.key)))
        other = second.side(await stack.enter_async_context(Session(second.url, second.key)))
        lines = stack.enter_context(out.open("w", encoding="utf-8")) if out else None
        with console.status("asking both") as status:
            async for each in compare(images, job, one, other, concurrency):
                differences.append(each)
                status.update(f"{len(differences):,} of {len(images):,} images")
                if lines:
                    lines.write(to_json(each) + "\n")
                    lines.flush()
        order = {str(image): at for at, image in enumerate(images)}
        return Comparison.of(sorted(differences, key=lambda each: order[each.file]), one, other)


def _code(found: Comparison, min_same: float | None) -> int:
    """0; 1 when an image failed on a side, or too few answers are the same."""
    if found.first.failed or found.second.failed:
        return 1
    return int(_differ(found, min_same))


def _differ(found: Comparison, min_same: float | None) -> bool:
    return min_same is not None and (found.share("exact") or 0.0) < min_same
