from __future__ import annotations

from pathlib import Path
from typing import Any

from sqlalchemy import Connection, text

VERSION_TABLE = "alembic_version"
UNVERSIONED = "0001"
"""What a database is that has tables and no version: the first server kept none."""


def version(connection: Connection, existing: set[str]) -> str | None:
    if VERSION_TABLE not in existing:
        return None
    return connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()  # noqa: S608


def stamp(connection: Connection, revision: str) -> None:
    """As Alembic does it, without its import, which would cost each start a third of a second."""
    connection.execute(text(f"CREATE TABLE IF NOT EXISTS {VERSION_TABLE} (version_num VARCHAR(32) PRIMARY KEY)"))
    connection.execute(text(f"DELETE FROM {VERSION_TABLE}"))  # noqa: S608
    connection.execute(
        text(f"INSERT INTO {VERSION_TABLE} (version_num) VALUES (:revision)"),  # noqa: S608
        {"revision": revision},
    )


def run(connection: Connection, existing: set[str]) -> None:
    """All steps from the database's version to the newest."""
    from alembic.migration import MigrationContext
    from alembic.operations import Operations
    from alembic.script import ScriptDirectory

    if version(connection, existing) is None:
        stamp(connection, UNVERSIONED)
    script = ScriptDirectory(str(Path(__file__).parent))

    def upgrade(revision: Any, _: Any) -> list[Any]:
        return script._upgrade_revs("head", revision)

    context = MigrationContext.configure(connection, opts={"fn": upgrade, "transactional_ddl": True})
    with Operations.context(context):
        context.run_migrations()
