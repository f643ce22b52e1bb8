from __future__ import annotations

import asyncio
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from client.addresses import API_KEY_NAME, BASE_URL_NAME
from client.errors import ConfigurationError, HomescopeError
from client.models import DEFAULT_MODEL
from client.session import DEFAULT_TIMEOUT

if TYPE_CHECKING:
    from client.finance.terminal import Plan

PASSWORD_NAME = "HOMESCOPE_PDF_PASSWORD"  # noqa: S105 -- the name of a variable
_NEEDED = ("aiosqlite", "cv2", "numpy", "pyarrow", "pydantic", "pypdfium2", "rapid_layout", "rapidocr", "sqlalchemy")


@click.command("report")
@click.argument("sources", nargs=-1, required=True, metavar="DOCUMENT.pdf...", type=click.Path(path_type=Path))
@click.option(
    "--out", default="report", show_default=True, type=click.Path(file_okay=False, path_type=Path),
    help="Folder for the page, the tables, the images of the charts, and the database.",
)  # fmt: skip
@click.option(
    "--database", metavar="URL", help="sqlite:///PATH or postgresql://USER:PASSWORD@HOST/NAME.  [default: in --out]"
)
@click.option("--rules", type=click.Path(path_type=Path), help="Alert rules, TOML.  [default: built in]")
@click.option("--model", default=DEFAULT_MODEL, show_default=True, help="A model that the server knows.")
@click.option("--no-words", is_flag=True, help="Ask for the figures alone: half the questions, no check of words.")
@click.option("--concurrency", default=8, show_default=True, type=click.IntRange(1, 256), help="Requests in flight.")
@click.option("--password", envvar=PASSWORD_NAME, default="", help=f"Of encrypted documents; better ${PASSWORD_NAME}.")
@click.option("--redact", is_flag=True, help="Mask personal data in the charts before they are sent.")
@click.option("--base-url", help=f"The server, with its /api/v1.  [default: ${BASE_URL_NAME}]")
@click.option("--api-key", help=f"The key.  [default: ${API_KEY_NAME}]")
@click.option(
    "--timeout", default=DEFAULT_TIMEOUT, show_default=True, type=click.FloatRange(min=0.1),
    help="Seconds without a byte from the server before giving up.",
)  # fmt: skip
@click.option("--show", is_flag=True, help="Print the table of each chart as it is read.")
@click.option("--quiet", is_flag=True, help="Print nothing unless something is wrong.")
def report_command(
    sources: Sequence[Path], out: Path, database: str | None, rules: Path | None, model: str, no_words: bool,
    concurrency: int, password: str, redact: bool, base_url: str | None, api_key: str | None, timeout: float,
    show: bool, quiet: bool,
) -> None:  # fmt: skip
    """Reads the charts of annual reports: series of figures, checked, stored, with alerts and a page to look at.

    DOCUMENT.pdf may be a folder: all PDFs in it. Running it again goes on where it was: what is read is not asked
    again. Exit code 0: everything read, 1: some charts or documents were not, 2: something to put right first, 130:
    interrupted.
    """
    from client.terminal import INTERRUPTED, complain

    try:
        plan = _plan(sources, out, database, rules, model, no_words, concurrency, password, redact, show, quiet)
        from client.finance.terminal import run
        from client.redaction.command import redacting
        from client.session import Session

        async def work() -> int:
            async with (
                redacting(redact, out / "redactions.jsonl") as prepare,
                Session(base_url, api_key, timeout=timeout, prepare=prepare) as session,
            ):
                return await run(session, plan)

        sys.exit(asyncio.run(work()))
    except HomescopeError as error:
        sys.exit(complain(error))
    except (KeyboardInterrupt, asyncio.CancelledError):
        click.echo("interrupted", err=True)
        sys.exit(INTERRUPTED)


def _plan(
    sources: Sequence[Path], out: Path, database: str | None, rules: Path | None, model: str, no_words: bool,
    concurrency: int, password: str, redact: bool, show: bool, quiet: bool,
) -> Plan:  # fmt: skip
    if missing := [name for name in _NEEDED if importlib.util.find_spec(name) is None]:
        raise ConfigurationError(f"reports need {', '.join(missing)}: pip install 'homescope[documents]'")
    from client.finance.rules import read_rules
    from client.finance.terminal import Plan
    from client.finance.work import Options
    from client.redaction import PREPARED

    options = Options(out / "figures", read_rules(rules), model, not no_words, password, PREPARED if redact else "")
    try:
        (out / "figures").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"the folder {out} cannot be made: {error.strerror}") from error
    url = database or f"sqlite:///{(out / 'report.db').resolve()}"
    return Plan(documents_in(sources), out, url, options, concurrency, show, quiet)


def documents_in(sources: Sequence[Path]) -> list[Path]:
    """The files named, and the PDFs in the folders named, in order.

    Raises:
        ConfigurationError: there is nothing, or a name leads nowhere.
    """
    paths: list[Path] = []
    for source in sources:
        if not source.exists():
            raise ConfigurationError(f"{source} is not there")
        inside = (each for each in source.rglob("*") if each.suffix.lower() == ".pdf" and each.is_file())
        paths += sorted(inside) if source.is_dir() else [source]
    if not paths:
        raise ConfigurationError("there is no PDF in the folders named")
    return list(dict.fromkeys(paths))
