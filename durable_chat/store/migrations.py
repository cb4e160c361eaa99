"""Migrate a database to the schema of this version. Alembic is imported only when there is something to do."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from durable_chat.errors import StartError

SCHEMA_VERSION = "0003"
"""The newest revision under `migrations/`."""


def find_migrations() -> Path:
    """The folder of Alembic's scripts: inside an installed package, beside the package in a checkout."""
    package = Path(__file__).parent.parent
    installed = package / "migrations"
    return installed if installed.is_dir() else package.parent / "migrations"


def read_version(connection: sqlite3.Connection) -> str | None:
    """The database's revision, or None if it has none."""
    query = "SELECT count(*) FROM sqlite_master WHERE name = 'alembic_version'"
    if connection.execute(query).fetchone()[0] == 0:
        return None
    row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    return None if row is None else str(row[0])


def migrate_sqlite(path: str) -> bool:
    """
    Migrate the database at a path. Returns whether anything was done. Raises StartError when a newer version wrote it.
    The caller must hold the lock of the file.
    """
    connection = sqlite3.connect(path)
    try:
        version = read_version(connection)
    finally:
        connection.close()
    if version == SCHEMA_VERSION:
        return False
    _upgrade(path, version)
    return True


def _upgrade(path: str, version: str | None) -> None:
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory
    from sqlalchemy import URL, create_engine, event

    config = Config()
    config.set_main_option("script_location", str(find_migrations()).replace("%", "%%"))
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if version is not None and version not in known:
        raise StartError(
            f"The database {path} has schema version {version}, which is newer than this program knows "
            f"({SCHEMA_VERSION}). Install the newer version of durable-chat that wrote it."
        )
    engine = create_engine(URL.create("sqlite", database=path))
    # Without this, the driver commits before each table. A crash during the migration must leave the old schema intact.
    event.listen(engine, "connect", _prepare)
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    try:
        with engine.begin() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    finally:
        engine.dispose()


def _prepare(connection: sqlite3.Connection, _record: object) -> None:
    """
    Prepare a connection. A new database can shrink. An existing one keeps its setting: it reuses free space but does
    not shrink.
    """
    connection.isolation_level = None
    connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
