"""The compatibility table: clients by flows. `python -m tests.conformance.table` prints what the suite holds."""

from __future__ import annotations

from collections.abc import Mapping

from tests.conformance.matrix import CELLS, CLIENTS, COLUMNS

WORKS, FAILS, SKIPPED, ABSENT = "✓", "✗", "skipped", ""


def render(results: Mapping[tuple[str, str], str]) -> str:
    """Markdown, one row per client; a cell is empty where the client has no such thing."""
    head = ["client", *COLUMNS.values()]
    rows = [
        [client.title, *(results.get((name, flow), ABSENT) for flow in COLUMNS)] for name, client in CLIENTS.items()
    ]
    lines = [head, ["---", *[":-:"] * len(COLUMNS)], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def promised() -> str:
    """The table when every cell works."""
    return render(dict.fromkeys(CELLS, WORKS))


if __name__ == "__main__":
    print(promised(), end="")  # noqa: T201
