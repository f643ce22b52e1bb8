"""A copy of what the server keeps, in one file: taken while it runs, put back into an empty folder."""

from __future__ import annotations

import gzip
import json
import shutil
import sqlite3
import tarfile
import tempfile
import time
import zlib
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from serving.storage.migrations import HEAD
from serving.storage.migrations.steps import VERSION_TABLE
from serving.storage.objects import STAGED

DATABASE, OBJECTS, MANIFEST = "homescope.db", "objects", "manifest.json"
FORMAT = 1


class BackupError(Exception):
    """Raised for what cannot be saved or put back; the message says why, and nothing has been changed."""


@dataclass(frozen=True, slots=True)
class Summary:
    """What is in a backup; `bytes` of the objects, `tables` the version of the database."""

    tables: str
    objects: int
    bytes: int


def save(data: Path, objects: Path | None, out: Path) -> Summary:
    """Writes the SQLite database in `data`, and the folder of `objects` if it is one, to a new file `out`.

    The database is copied first, as it is at one moment; objects that come later are in the copy and belong to no row.
    Raises `BackupError`.
    """
    source = data / DATABASE
    if not source.is_file():
        raise BackupError(f"there is no database in {data}; set HOMESCOPE_DATA to the folder of the server")
    if out.exists():
        raise BackupError(f"{out} exists already; name a new file")
    if not out.parent.is_dir():
        raise BackupError(f"there is no folder {out.parent}; make it, or name a file elsewhere")
    partial = out.with_name(out.name + ".part")
    try:
        with tempfile.TemporaryDirectory(prefix="backup-", dir=out.parent) as scratch:
            copy = Path(scratch) / DATABASE
            with closing(sqlite3.connect(source, timeout=60)) as database:
                database.execute("VACUUM INTO ?", (str(copy),))
            with tarfile.open(partial, "w:gz", compresslevel=1) as archive:
                archive.add(copy, DATABASE)
                sizes = [_add(archive, objects, path) for path in _objects(objects)]
                summary = Summary(_version(copy), len(sizes), sum(sizes))
                _note(archive, Path(scratch) / MANIFEST, summary)
        partial.chmod(0o600)
        partial.replace(out)
    except (OSError, sqlite3.Error) as error:
        raise BackupError(f"cannot write {out}: {_reason(error)}; name a file where there is room") from None
    finally:
        partial.unlink(missing_ok=True)
    return summary


def restore(archive: Path, data: Path, objects: Path | None) -> Summary:
    """Puts back what `save` wrote. Neither a database nor objects may be there yet. Raises `BackupError`."""
    for path in (data / DATABASE, objects):
        if path is not None and path.exists() and (path.is_file() or any(path.iterdir())):
            raise BackupError(f"{path} exists already; name an empty folder with HOMESCOPE_DATA, or move it away")
    try:
        data.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryDirectory(prefix="restore-", dir=data) as scratch, tarfile.open(archive) as found:
            found.extractall(scratch, members=_expected(found), filter="data")
            summary = _checked(Path(scratch))
            if objects is not None and (Path(scratch) / OBJECTS).is_dir():
                objects.parent.mkdir(parents=True, exist_ok=True)
                if objects.exists():
                    objects.rmdir()
                shutil.move(Path(scratch) / OBJECTS, objects)
            (Path(scratch) / DATABASE).chmod(0o600)
            (Path(scratch) / DATABASE).replace(data / DATABASE)  # last: with it the folder is a server's
    except (tarfile.TarError, gzip.BadGzipFile, sqlite3.Error, ValueError, KeyError, EOFError, zlib.error) as error:
        raise BackupError(f"{archive} cannot be put back: {_reason(error)}; name a whole backup") from None
    except OSError as error:
        raise BackupError(
            f"cannot write to {data}: {_reason(error)}; name another folder with HOMESCOPE_DATA"
        ) from None
    return summary


def _reason(error: Exception) -> str:
    """In one line."""
    told = error.strerror if isinstance(error, OSError) else None
    return (told or str(error) or type(error).__name__).partition("\n")[0].rstrip(":")


def _objects(folder: Path | None) -> Iterator[Path]:
    if folder is None or not folder.is_dir():
        return
    yield from sorted(path for path in folder.rglob("*") if path.is_file() and not STAGED.search(path.name))


def _add(archive: tarfile.TarFile, folder: Path | None, path: Path) -> int:
    """Bytes; 0 for an object that has just been deleted."""
    assert folder is not None
    try:
        archive.add(path, str(PurePosixPath(OBJECTS) / path.relative_to(folder).as_posix()))
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _note(archive: tarfile.TarFile, file: Path, summary: Summary) -> None:
    told = {"format": FORMAT, "made_at": int(time.time()), "tables": summary.tables, "objects": summary.objects}
    file.write_text(json.dumps(told), encoding="utf-8")
    archive.add(file, MANIFEST)


def _expected(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    for member in archive:
        if member.name in (DATABASE, MANIFEST) or member.name.startswith(f"{OBJECTS}/"):
            yield member


def _checked(folder: Path) -> Summary:
    """Raises `ValueError` for what is no backup, is damaged, or comes of a later version."""
    if not (folder / MANIFEST).is_file() or not (folder / DATABASE).is_file():
        raise ValueError("it is no backup, or not a whole one")
    told = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    if told["format"] != FORMAT or told["tables"] > HEAD:
        raise ValueError("it was made by a later version of homescope")
    with closing(sqlite3.connect(folder / DATABASE)) as database:
        if (found := database.execute("PRAGMA integrity_check").fetchone()[0]) != "ok":
            raise ValueError(f"its database is damaged: {found}")
    sizes = [path.stat().st_size for path in _objects(folder / OBJECTS)]
    if len(sizes) < told["objects"]:
        raise ValueError(f"it has {len(sizes)} objects of {told['objects']}")
    return Summary(told["tables"], len(sizes), sum(sizes))


def _version(database: Path) -> str:
    with closing(sqlite3.connect(database)) as connection:
        return str(connection.execute(f"SELECT version_num FROM {VERSION_TABLE}").fetchone()[0])  # noqa: S608
