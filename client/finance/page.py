from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from sqlalchemy import RowMapping

from client.finance.series import Series
from client.finance.store import Store
from client.finance.work import Unread
from client.report import thumbnail


async def write_page(path: Path, store: Store, documents: Mapping[str, Path], unread: Iterable[Unread]) -> None:
    """One HTML file with everything in it: each chart beside its table, alerts and doubts; alerts first.

    Args:
        path: where to; replaced in one step.
        documents: by digest, in the order to be shown.
        unread: what could not be read.

    Raises:
        OSError: it cannot be written.
    """
    counts: Counter[str] = Counter(documents=len(documents))
    alerts, sections = [], path.with_name(path.name + ".sections")
    new = path.with_name(path.name + ".new")
    try:
        with sections.open("w", encoding="utf-8") as file:
            for digest, document in documents.items():
                charts, told = await _document(store, digest, document, counts)
                alerts += told
                file.write(charts)
        problems = [each for each in unread if each.page == 0]
        with new.open("w", encoding="utf-8") as file, sections.open(encoding="utf-8") as body:
            file.write(_head(counts, alerts, problems))
            while piece := body.read(1 << 20):
                file.write(piece)
            file.write(_END)
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)
        sections.unlink(missing_ok=True)


_END = """<p class="end">This page needs no network: everything it shows is inside it.</p>
</main></body></html>
"""


async def _document(store: Store, digest: str, document: Path, counts: Counter[str]) -> tuple[str, list[str]]:
    """A document's section, and its lines of the list of alerts."""
    cards, told = [], []
    for row in await store.outcomes(digest):
        if row["kind"] == "table":
            counts["tables"] += 1
            continue
        series: Series | None = None
        alerts: list[dict[str, Any]] = []
        if row["state"] == "done":
            series, alerts = await store.series(row["reading"]), await store.alerts_of(row["reading"])
        counts.update({"read": series is not None, "unread": series is None, "alerts": len(alerts)})
        counts["doubts"] += len(series.flags) if series else 0
        picture = await asyncio.to_thread(thumbnail, Path(row["image"]))
        cards.append(_card(row, series, alerts, picture))
        told += [_alert_line(row, alert, document) for alert in alerts]
    heading = f'<h2>{escape(document.name)}</h2><p class="digest">SHA-256 {digest}</p>'
    return f'<section class="document">{heading}{"".join(cards) or _NONE}</section>\n', told


_NONE = '<p class="soft">No chart was found in this document.</p>'


def _head(counts: Counter[str], alerts: Sequence[str], problems: Sequence[Unread]) -> str:
    listed = "".join(alerts)
    failed = "".join(f"<li><b>{escape(str(each.path))}</b> {escape(each.reason)}</li>" for each in problems)
    return Template(files("client.finance").joinpath("page.html").read_text("utf-8")).substitute(
        tiles="".join(_tiles(counts)),
        alerts=f'<section class="alerts"><h2>Alerts</h2><ul>{listed}</ul></section>' if listed else "",
        problems=f'<section class="problems"><h2>Not read</h2><ul>{failed}</ul></section>' if failed else "",
    )


def _tiles(counts: Counter[str]) -> Iterator[str]:
    shown = (
        ("documents", "documents", ""), ("read", "charts read", ""), ("alerts", "alerts", "alert"),
        ("doubts", "doubts", "doubt"), ("unread", "charts not read", "bad"), ("tables", "tables found", ""),
    )  # fmt: skip
    for name, label, mood in shown:
        mood = mood if counts[name] else ""
        yield f'<div class="tile {mood}"><strong>{counts[name]:,}</strong><span>{label}</span></div>'


def _alert_line(row: RowMapping, alert: Mapping[str, Any], document: Path) -> str:
    doubt = "" if alert["certain"] else ' <span class="doubtful">doubtful</span>'
    place = f"{document.name}, page {row['page']}"
    return (
        f'<li><span class="label">{escape(alert["label"])}</span> <a href="#figure-{row["id"]}">{escape(place)}</a> '
        f"{escape(alert['message'])}{doubt}</li>"
    )


def _card(row: RowMapping, series: Series | None, alerts: Sequence[Mapping[str, Any]], picture: str | None) -> str:
    image = f'<img src="{picture}" alt="" loading="lazy">' if picture else '<span class="soft">image gone</span>'
    place = f"page {row['page']}{', scanned' if row['scanned'] else ''}"
    box = ", ".join(f"{row[side]:.0f}" for side in ("x0", "y0", "x1", "y1"))
    title = escape(row["caption"] or (series.measure if series else "") or "Chart without a caption")
    body = _reason(row) if series is None else _table(series) + _notes(series, alerts) + _words(row)
    mood = "alerted" if alerts else "doubted" if series and series.flags else ""
    return (
        f'<article class="card {mood}" id="figure-{row["id"]}"><div class="picture">{image}'
        f'<p class="soft">{place}, box {box} pt</p></div><div class="body"><h3>{title}</h3>{body}'
        f'<p class="soft origin">{escape(_origin(row))}</p></div></article>\n'
    )


def _reason(row: RowMapping) -> str:
    return f'<p class="reason">{escape(row["reason"] or "not asked yet: run the same command again")}</p>'


def _origin(row: RowMapping) -> str:
    if row["model"] is None:
        return ""
    request = f", request {row['request_id']}" if row["request_id"] else ""
    return f"{row['model']}, prompt {row['prompt_version']}{request}"


def _table(series: Series) -> str:
    doubted = {flag.year for flag in series.flags}
    rows = "".join(
        f'<tr{" class=doubted" if point.year in doubted else ""}><th scope="row">{point.year}</th>'
        f"<td>{point.value:,g}</td><td>{_amount(point.amount)}</td><td>{_percent(point.growth_printed)}</td>"
        f"<td>{_percent(point.growth_computed)}</td></tr>"
        for point in series.points
    )
    head = (escape(series.unit) or "no unit", escape(series.currency) or "amount", "growth", "recomputed")
    names = "".join(f'<th scope="col">{name}</th>' for name in ("year", *head))
    return f"<table><thead><tr>{names}</tr></thead><tbody>{rows}</tbody></table>"


def _amount(amount: float | None) -> str:
    """In the largest power of a thousand that leaves a digit before the point: 9.6 bn, 12.4 m."""
    if amount is None:
        return "-"
    for factor, name in ((1e12, "tn"), (1e9, "bn"), (1e6, "m"), (1e3, "k")):
        if abs(amount) >= factor:
            return f"{amount / factor:,.2f} {name}"
    return f"{amount:,.2f}"


def _percent(figure: float | None) -> str:
    return "-" if figure is None else f"{figure:.1f} %"


def _notes(series: Series, alerts: Sequence[Mapping[str, Any]]) -> str:
    lines = [
        f'<li class="alert"><span class="label">{escape(alert["label"])}</span> {escape(alert["message"])}</li>'
        for alert in alerts
    ]
    lines += [
        f'<li class="doubt"><span class="label">{flag.kind}</span> {escape(flag.message)}</li>' for flag in series.flags
    ]
    return f"<ul class=notes>{''.join(lines)}</ul>" if lines else ""


def _words(row: RowMapping) -> str:
    return f"<blockquote>{escape(row['words'])}</blockquote>" if row["words"] else ""
