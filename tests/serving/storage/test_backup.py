from __future__ import annotations

import io
import os
import random
import sqlite3
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from serving.access.keyring import Keyring
from serving.access.keys import KeyStore
from serving.cli import main
from serving.storage import database
from serving.storage.backup import BackupError, restore, save


@pytest.fixture
async def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    records = database.at(folder)
    await database.create_tables(records, folder)
    await KeyStore(records).create("first")
    await database.close(records)
    (folder / "objects" / "file").mkdir(parents=True)
    (folder / "objects" / "file" / "one").write_bytes(b"x" * 1000)
    (folder / "objects" / "file" / "half#1").write_bytes(b"being written")
    return folder


def run(folder: Path, *words: str, **env: str) -> Result:
    return CliRunner().invoke(main, words, env={"HOMESCOPE_DATA": str(folder), **env})


async def test_what_was_saved_while_the_server_wrote_is_put_back(data: Path, tmp_path: Path) -> None:
    records = database.at(data)
    async with records.connect():  # somebody reads and writes meanwhile
        secret = await KeyStore(records).create("second")
        done = run(data, "backup", str(tmp_path / "b.tar.gz"))
        assert (done.exit_code, "1 files" in done.output) == (0, True)
        await KeyStore(records).create("too late")
    await database.close(records)
    done = run(tmp_path / "new", "restore", str(tmp_path / "b.tar.gz"))
    assert done.exit_code == 0, done.output
    restored = database.at(tmp_path / "new")
    await database.create_tables(restored, tmp_path / "new")
    assert (await Keyring(KeyStore(restored)).caller(f"Bearer {secret}")).name == "second"
    assert [key.name for key in await KeyStore(restored).all()] == ["first", "second"]
    await database.close(restored)
    assert [path.name for path in (tmp_path / "new" / "objects").rglob("*") if path.is_file()] == ["one"]
    assert (tmp_path / "b.tar.gz").stat().st_mode & 0o77 == 0


def test_nothing_is_written_over(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "b.tar.gz"
    assert run(data, "backup", str(out)).exit_code == 0
    for done in (run(data, "backup", str(out)), run(data, "restore", str(out))):
        assert done.exit_code == 2
        assert "exists already" in done.output


def test_a_database_elsewhere_is_saved_elsewhere(data: Path) -> None:
    done = run(data, "backup", "b.tar.gz", HOMESCOPE_DATABASE="postgresql://u:secret@h/d")
    assert (done.exit_code, "pg_dump" in done.output, "secret" in done.output) == (2, True, False)


def test_there_is_nothing_to_save(tmp_path: Path) -> None:
    done = run(tmp_path / "none", "backup", str(tmp_path / "b"))
    assert (done.exit_code, "there is no database" in done.output) == (2, True)


def test_a_backup_that_is_cut_or_forged_changes_nothing(data: Path, tmp_path: Path) -> None:
    whole, cut, forged = (tmp_path / name for name in ("whole", "cut", "forged"))
    save(data, data / "objects", whole)
    cut.write_bytes(whole.read_bytes()[:-200])
    with tarfile.open(forged, "w:gz") as archive:
        member = tarfile.TarInfo("objects/../../evil")
        member.size = 4
        archive.addfile(member, io.BytesIO(b"evil"))
    for archive_file in (cut, forged):
        with pytest.raises(BackupError):
            restore(archive_file, tmp_path / "new", tmp_path / "new" / "objects")
    assert not [path for path in tmp_path.rglob("*") if path.name == "evil"]
    assert not (tmp_path / "new" / "homescope.db").exists()


def test_a_damaged_database_is_noticed(data: Path, tmp_path: Path) -> None:
    save(data, None, tmp_path / "whole")
    with tarfile.open(tmp_path / "whole") as archive:
        archive.extractall(tmp_path / "x", filter="data")
    with (tmp_path / "x" / "homescope.db").open("r+b") as file:
        file.seek(8192)
        file.write(b"\xff" * 4096)
    with tarfile.open(tmp_path / "damaged", "w:gz") as archive:
        for name in ("homescope.db", "manifest.json"):
            archive.add(tmp_path / "x" / name, name)
    with pytest.raises(BackupError, match=r"damaged|malformed"):
        restore(tmp_path / "damaged", tmp_path / "new", None)


def test_a_running_server_is_not_in_the_way(data: Path, tmp_path: Path) -> None:
    """A transaction is open that has written: what it has not committed is not in the copy."""
    connection = sqlite3.connect(data / "homescope.db", isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("UPDATE api_keys SET name = 'not yet'")
    save(data, None, tmp_path / "b")
    connection.execute("ROLLBACK")
    connection.close()
    restore(tmp_path / "b", tmp_path / "new", None)
    restored = sqlite3.connect(tmp_path / "new" / "homescope.db")
    assert restored.execute("SELECT name FROM api_keys").fetchall() == [("first",)]
    restored.close()


def test_each_mistake_is_told_in_one_line_with_what_to_do(data: Path, tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("no archive")
    (tmp_path / "file").touch()
    save(data, data / "objects", tmp_path / "whole")
    for folder, arguments, *said in (
        (data, ("backup", str(tmp_path / "nowhere" / "b")), "there is no folder", "make it"),
        (data, ("backup", str(tmp_path)), "exists already", "name a new file"),
        (tmp_path / "none", ("backup", str(tmp_path / "b")), "HOMESCOPE_DATA"),
        (tmp_path / "new", ("restore", str(text)), "cannot be put back", "name a whole backup"),
        (tmp_path / "file" / "x", ("restore", str(tmp_path / "whole")), "Not a directory", "HOMESCOPE_DATA"),
    ):
        done = run(folder, *arguments)
        (line,) = done.stderr.splitlines()
        assert done.exit_code == 2
        assert all(part in line for part in said), line


@pytest.mark.ring3
def test_a_disk_that_fills_up_leaves_no_half_backup(data: Path, tmp_path: Path) -> None:
    """No file of this process may grow beyond 64 KiB, as on a full disk."""
    (data / "objects" / "large").write_bytes(random.Random(1).randbytes(1 << 20))
    out = tmp_path / "b.tar.gz"
    bounded = f"ulimit -f 64; exec {sys.executable} -m serving backup {out}"
    environment = os.environ | {"HOMESCOPE_DATA": str(data), "PYTHONPATH": str(Path(__file__).parents[3])}
    done = subprocess.run(["bash", "-c", bounded], env=environment, capture_output=True, text=True, check=False)
    (line,) = done.stderr.splitlines()
    assert done.returncode == 2
    assert line.startswith(f"homescope-server: cannot write {out}: ")
    assert line.endswith("; name a file where there is room")
    assert not [path for path in tmp_path.iterdir() if "b" in path.name and path != data]
