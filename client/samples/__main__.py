import sys
from pathlib import Path

import click

from client.errors import ConfigurationError
from client.samples import write_reports


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--out", required=True, type=click.Path(file_okay=False, path_type=Path), help="The folder.")
@click.option("--count", default=4, show_default=True, type=click.IntRange(1, 10_000), help="How many reports.")
@click.option("--seed", default=2026, show_default=True, help="The same seed gives the same reports.")
def main(out: Path, count: int, seed: int) -> None:
    """Annual reports in Chinese and English with known figures, to try `homescope report` on."""
    try:
        for path in write_reports(out, count, seed):
            click.echo(path)
    except (ConfigurationError, OSError) as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
