"""A comparison for a terminal, and as one HTML file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from html import escape
from importlib.resources import files
from string import Template

from rich.table import Table

from client.compare import Comparison, Difference, Reply, Totals
from client.report import THUMBNAILS_BYTES, thumbnail

_SIZE = (380, 280)
"""Pixels of a thumbnail: twice what the page shows."""

_ROWS: list[tuple[str, Callable[[Totals], str]]] = [
    ("answered", lambda side: f"{side.answered:,}"),
    ("failed", lambda side: f"{side.failed:,}"),
    ("seconds, median", lambda side: f"{side.median_s:.2f}"),
    ("seconds, 95th percentile", lambda side: f"{side.p95_s:.2f}"),
    ("input tokens an image", lambda side: f"{side.input_tokens:,.1f}"),
    ("of them image tokens", lambda side: f"{side.image_tokens:,.1f}"),
    ("output tokens an image", lambda side: f"{side.output_tokens:,.1f}"),
    ("cost of 1,000 images", lambda side: _cost(side)),
]
_SHARES = (
    ("exact", "answers that are the same"),
    ("numbers", "numbers that are the same"),
    ("fields", "JSON fields that are the same"),
    ("similarity", "similarity of the texts"),
)


def as_table(found: Comparison) -> Table:
    """Both sides, then how much they agree."""
    table = Table(
        title=f"{len(found.differences):,} images, {len(found.answered):,} answered by both", title_justify="left"
    )
    table.add_column("")
    table.add_column(found.first.name, justify="right")
    table.add_column(found.second.name, justify="right")
    for label, cell in _ROWS:
        table.add_row(label, cell(found.first), cell(found.second))
    table.add_section()
    for name, label in _SHARES:
        table.add_row(label, _share(found.share(name)), "")
    return table


def as_page(found: Comparison, prompt: str) -> str:
    """The whole HTML document: totals, then each image, those that differ first, each with its thumbnail."""
    template = Template(files("client").joinpath("compare.html").read_text("utf-8"))
    ordered = sorted(found.differences, key=lambda each: (each.exact, each.similarity))
    return template.substitute(
        prompt=escape(prompt),
        first=escape(found.first.name),
        second=escape(found.second.name),
        totals="".join(_row(label, cell(found.first), cell(found.second)) for label, cell in _ROWS),
        tiles="".join(_tile(_share(found.share(name)), label) for name, label in _SHARES),
        images="".join(_images(ordered, found.first.name, found.second.name)),
    )


def _cost(side: Totals) -> str:
    return "no price" if side.cost_per_1000 is None else f"{side.cost_per_1000:,.4g} {side.currency}"


def _share(value: float | None) -> str:
    return "none to compare" if value is None else f"{value:.1%}"


def _tile(value: str, label: str) -> str:
    return f'<div class="tile"><strong>{value}</strong><span>{label}</span></div>'


def _row(*cells: str) -> str:
    return "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>"


def _images(ordered: list[Difference], first: str, second: str) -> Iterator[str]:
    left = THUMBNAILS_BYTES
    for each in ordered:
        mood = "same" if each.exact else "differs" if each.answered else "failed"
        source = thumbnail(each.file, _SIZE) if left > 0 else None
        left -= len(source or "")
        yield (
            f'<article class="{mood}"><h3>{escape(each.file)} <small>{_facts(each, mood)}</small></h3>'
            f'<div class="pair">{_picture(source)}{_reply(first, each.first)}{_reply(second, each.second)}'
            "</div></article>"
        )


def _facts(each: Difference, mood: str) -> str:
    if not each.answered:
        return mood
    numbers = "" if each.numbers is None else f", numbers {each.numbers:.0%}"
    return f"{mood}, similarity {each.similarity:.0%}{numbers}"


def _picture(source: str | None) -> str:
    shown = "<small>no preview</small>" if source is None else f'<img src="{source}" alt="" loading="lazy">'
    return f'<div class="picture">{shown}</div>'


def _reply(name: str, reply: Reply) -> str:
    words = f'<p class="error">{escape(reply.error)}</p>' if reply.error else f"<pre>{escape(reply.text)}</pre>"
    facts = f"{escape(name)}, {reply.seconds:.2f} s, {reply.usage.total_tokens:,} tokens"
    return f"<section>{words}<small>{facts}</small></section>"
