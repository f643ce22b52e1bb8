"""`homescope-server backup` and `restore`."""

from __future__ import annotations

from pathlib import Path

import click

from serving.console import give_up, read_settings
from serving.settings import Settings
from serving.storage import backup as copies

OTHERWISE = "HOMESCOPE_DATABASE is a database of its own: save it with its own tools, such as pg_dump"


@click.command()
@click.argument("out", type=click.Path(path_type=Path))
def backup(out: Path) -> None:
    """Write keys, records, tasks, batches and files to OUT, a .tar.gz; the server may run meanwhile."""
    chosen = read_settings()
    if chosen.database is not None:
        give_up(OTHERWISE)
    folder = _folder(chosen)
    try:
        summary = copies.save(chosen.data, folder, out)
    except copies.BackupError as reason:
        give_up(str(reason))
    click.echo(f"{out}: the database, and {_objects(summary, folder)}. Keep it safe: it has what clients have sent.")


@click.command()
@click.argument("archive", type=click.Path(path_type=Path, exists=True, dir_okay=False))
def restore(archive: Path) -> None:
    """Put a backup back into HOMESCOPE_DATA, which has to be empty; the server may not run."""
    chosen = read_settings()
    if chosen.database is not None:
        give_up(OTHERWISE)
    folder = _folder(chosen)
    try:
        summary = copies.restore(archive, chosen.data, folder)
    except copies.BackupError as reason:
        give_up(str(reason))
    click.echo(f"{chosen.data}: the database, and {_objects(summary, folder)}")


def _folder(chosen: Settings) -> Path | None:
    """Where objects lie; None for a bucket."""
    if chosen.objects is None:
        return chosen.data / copies.OBJECTS
    return None if chosen.objects.startswith("s3://") else Path(chosen.objects).expanduser()


def _objects(summary: copies.Summary, folder: Path | None) -> str:
    if folder is None:
        return "no files: those are in the bucket"
    return f"{summary.objects} files of {summary.bytes / 1e6:.1f} MB"
