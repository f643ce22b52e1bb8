"""A report as one self-contained HTML file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from itertools import groupby
from pathlib import Path
from string import Template
from typing import Any

from benchmarks.estimates import Estimate, percentile
from benchmarks.plots import Series, cumulative, number, plot
from benchmarks.record import Record
from benchmarks.report import Report

_DOTS = 1500
_LEAST_GAP_MS = 0.01
"""Pieces that came in one read have no gap, and a logarithmic axis has no zero."""

NAMES = {
    "e2e": "whole answer, from the intended start",
    "e2e_from_send": "whole answer, from the send",
    "ttft": "first token, from the intended start",
    "ttft_from_send": "first token, from the send",
    "itl": "between two pieces of text",
    "tpot": "per output token after the first",
    "upload": "upload",
}


def page(title: str, body: str) -> str:
    """A whole HTML document."""
    template = Template(Path(__file__).with_name("page.html").read_text("utf-8"))
    return template.substitute(title=escape(title), body=body)


def report_page(report: Report, records: Sequence[Record], run: Mapping[str, Any]) -> str:
    """The page of one run."""
    title = str(run.get("name") or "Load test")
    parts = [
        f"<h1>{escape(title)}</h1>",
        _verdict(report),
        _tiles(report),
        f'<div class="plots">{"".join(plots(records))}</div>',
        "<h2>Latency</h2>",
        _latencies(report),
        "<h2>Outcomes</h2>",
        table(("outcome", "requests"), [(name, f"{count:,}") for name, count in report.outcomes.items()]),
        "<h2>Run</h2>",
        facts(run),
    ]
    return page(title, "\n".join(parts))


def _verdict(report: Report) -> str:
    word, mood = ("INVALID", "bad") if report.invalid else ("valid", "")
    met = ("meets", "") if report.meets else ("misses", "bad")
    badges = f'<span class="verdict {mood}">{word}</span>'
    if not report.invalid:  # what an invalid run met says nothing of the server
        badges += f' <span class="verdict {met[1]}">{met[0]} its objective</span>'
    lines = [f"<p>{escape(line)}</p>" for line in report.invalid]
    lines += [f'<p class="soft">{escape(line)}</p>' for line in (f"objective: {report.objective}", *report.notes)]
    return f"<p>{badges}</p>{''.join(lines)}"


def _tiles(report: Report) -> str:
    rates, latencies = report.rates, report.latencies
    tiles = [
        (number(rates["requests"]), "requests/s"),
        (number(rates["goodput"]), "good requests/s"),
        (number(rates["images"]), "images/s"),
        (number(rates["vision_tokens"]), "vision tokens/s"),
        (number(rates["output_tokens"]), "output tokens/s"),
        (number(rates["upload_mb"]), "MB/s uploaded"),
    ]
    tiles += [
        (f"{latencies[name].percentiles['p99'].value:.3g} s", f"p99 {name}")
        for name in ("e2e", "ttft")
        if name in latencies
    ]
    tiles.append((f"{report.ok:,}/{report.requests:,}", "answered"))
    if report.score is not None:
        tiles.append((f"{report.score.value:.1%}", "score of the answers"))
    return (
        '<div class="tiles">'
        + "".join(f'<div class="tile"><strong>{v}</strong><span>{n}</span></div>' for v, n in tiles)
        + "</div>"
    )


def plots(records: Sequence[Record]) -> Iterable[str]:
    """Figures of one run."""
    answered = sorted((record for record in records if record.ok), key=lambda record: record.intended)
    if not answered:
        return
    corrected = [(record.end - record.intended) / 1e9 for record in answered]
    sent = [(record.end - record.sent) / 1e9 for record in answered]
    ways = [Series("from the intended start", cumulative(corrected)), Series("from the send", cumulative(sent))]
    yield plot("Whole answer: share of requests within", "seconds", "share", ways, log_x=True)
    thin = answered[:: max(1, len(answered) // _DOTS)]
    dots = [(record.intended / 1e9, (record.end - record.intended) / 1e9) for record in thin]
    yield plot(
        "Whole answer over the run",
        "seconds into the run",
        "seconds",
        [Series("one request", dots, "dots"), *_windows(answered)],
    )
    first = [(record.first - record.intended) / 1e9 for record in answered if record.first is not None]
    yield plot(
        "First token: share of requests within",
        "seconds",
        "share",
        [Series("from the intended start", cumulative(first))],
        log_x=True,
    )
    gaps = [gap / 1e3 for record in answered for gap in record.gaps]
    yield plot(
        "Between two pieces of text: share within",
        "milliseconds",
        "share",
        [Series("gaps", cumulative([max(gap, _LEAST_GAP_MS) for gap in gaps]))],
        log_x=True,
    )
    yield plot(
        "Requests a second",
        "seconds into the run",
        "requests/s",
        [_rate("due", [r.intended for r in records]), _rate("answered", [r.end for r in answered])],
    )
    yield plot("In flight", "seconds into the run", "requests", [Series("requests", _in_flight(records), "step")])


def _windows(answered: Sequence[Record], count: int = 30) -> list[Series]:
    size = max(1, len(answered) // count)
    rows = []
    for at in range(0, len(answered) - size + 1, size):
        window = answered[at : at + size]
        values = sorted((record.end - record.intended) / 1e9 for record in window)
        rows.append((window[size // 2].intended / 1e9, percentile(values, 0.5), percentile(values, 0.9)))
    return [Series("median", [(t, p50) for t, p50, _ in rows]), Series("p90", [(t, p90) for t, _, p90 in rows])]


def _rate(name: str, times: Sequence[int], steps: int = 40) -> Series:
    width = max((max(times) - min(0, *times)) / 1e9 / steps, 1e-3)
    counts = {at: len(list(group)) for at, group in groupby(sorted(int(time / 1e9 / width) for time in times))}
    return Series(name, [(at * width, counts.get(at, 0) / width) for at in range(max(counts) + 1)], "step")


def _in_flight(records: Sequence[Record], most: int = 600) -> list[tuple[float, float]]:
    changes = sorted([(record.sent, 1) for record in records] + [(record.end, -1) for record in records])
    now, points = 0, []
    for time, change in changes:
        now += change
        points.append((time / 1e9, float(now)))
    return points[:: max(1, len(points) // most)]


def _latencies(report: Report) -> str:
    rows = []
    for name, one in report.latencies.items():
        cells = [_interval(estimate) for estimate in one.percentiles.values()]
        rows.append(
            (
                f"<b>{name}</b> <small>{NAMES[name]}</small>",
                _interval(one.mean),
                *cells,
                f"{one.most:.3f}",
                f"{one.count:,}",
            )
        )
    header = ("seconds, with 95 % intervals", "mean", "p50", "p90", "p99", "p99.9", "most", "values")
    return table(header, rows, raw=True)


def _interval(estimate: Estimate) -> str:
    low, high = ("?" if end is None else f"{end:.3f}" for end in (estimate.low, estimate.high))
    return f"{estimate.value:.3f} <small>{low} - {high}</small>"


def table(header: Sequence[str], rows: Iterable[Sequence[str]], raw: bool = False) -> str:
    """`raw`: cells are HTML already."""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = "".join(
        "<tr>" + "".join(f"<td>{cell if raw else escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def facts(values: Mapping[str, Any]) -> str:
    """What a run depended on, nested values flattened."""
    rows = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in _flat(values))
    return f"<dl>{rows}</dl>"


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        elif value not in ("", None, [], ()):
            yield prefix + str(name), ", ".join(map(str, value)) if isinstance(value, list) else str(value)
