"""The SQLite file: what survives a restart in any state of compaction, and who can open the file."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from durable_chat.errors import StartError, StoreFailed
from durable_chat.protocol.messages import JSON, join_messages
from durable_chat.protocol.requests import Create
from durable_chat.store.base import RecordWrite, Write
from durable_chat.store.migrations import SCHEMA_VERSION, migrate_sqlite, read_version
from durable_chat.store.schema import metadata
from durable_chat.store.sqlite.backend import SqliteBackend
from durable_chat.store.sqlite.writer import SqliteWriter
from durable_chat.store.streams import Streams
from durable_chat.store.tables import Accepted, Tables
from tests.store.making import json_append, json_piece, make_state, write_of

LAST_TAIL = 6


async def fill(backend: SqliteBackend, first: int, last: int) -> None:
    for n in range(first, last):
        records = [RecordWrite("k", "a", b"%d" % n)]
        await backend.commit(
            [write_of(make_state("s", version=n + 1, tail=n + 1), json_piece(n, b"%d" % n), records=records)]
        )


async def check(backend: SqliteBackend) -> None:
    loaded = await backend.load("s")
    assert loaded is not None
    assert loaded.state.tail == LAST_TAIL
    pieces = await backend.read(1, 0, LAST_TAIL, 1 << 20)
    assert b",".join(piece.data for piece in pieces) == b"0,1,2,3,4,5"
    record = await backend.record("k", "a")
    assert record is not None
    assert (record.version, record.value) == (LAST_TAIL, b"5")


@pytest.mark.parametrize("compacted", [0, 3, 6])
async def test_everything_survives_a_restart(tmp_path: Path, compacted: int) -> None:
    """This holds with none, some or all of it compacted, and after a second restart."""
    path = str(tmp_path / "a.db")
    backend = SqliteBackend(path)
    await backend.open()
    await fill(backend, 0, compacted)
    await backend.compact()
    await fill(backend, compacted, LAST_TAIL)
    await backend.close()
    for _ in range(2):
        backend = SqliteBackend(path)
        await backend.open()
        await check(backend)
        assert await backend.next_stream_id() == 2
        await backend.close()


async def test_a_compaction_cut_off_before_the_journal_is_cleared_doubles_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The journal then repeats content of the tables, and is read again at the start."""
    path = str(tmp_path / "a.db")

    backend = SqliteBackend(path)
    monkeypatch.setattr(SqliteWriter, "forget", lambda *_: None)
    await backend.open()
    await fill(backend, 0, 4)
    await backend.compact()
    await fill(backend, 4, LAST_TAIL)
    await backend.compact()
    await backend.close()
    monkeypatch.undo()
    again = SqliteBackend(path)
    await again.open()
    await check(again)
    await again.compact()
    await check(again)
    await again.close()
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT count(*) FROM journal").fetchone() == (0,)
    connection.close()


class SlowToReturn(SqliteWriter):
    """A writer that waits after a flush is on disk and before its result is returned."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.held = threading.Event()
        self.go = threading.Event()
        self.go.set()

    def commit(self, writes: Sequence[Write], tables: Tables) -> tuple[frozenset[int], list[Accepted]]:
        done = super().commit(writes, tables)
        if not self.go.is_set():
            self.held.set()
            assert self.go.wait(20)
        return done


@pytest.mark.parametrize("emptied", [False, True])
async def test_a_compaction_leaves_a_flush_in_the_journal_that_it_has_not_seen(tmp_path: Path, emptied: bool) -> None:
    """
    A compaction that begins while a flush returns does not delete the journal row of that flush, because a crash would
    then lose it. This also holds if the journal was empty before.
    """
    path = str(tmp_path / "a.db")
    backend = SqliteBackend(path)
    writer = backend._writer = SlowToReturn(path)  # noqa: SLF001 - the seam where the thread can be held
    await backend.open()
    await fill(backend, 0, LAST_TAIL - 1)
    if emptied:
        await backend.compact()
    writer.go.clear()
    flush = asyncio.create_task(fill(backend, LAST_TAIL - 1, LAST_TAIL))
    await asyncio.to_thread(writer.held.wait, 20)
    compaction = asyncio.create_task(backend.compact())
    await asyncio.sleep(0)
    writer.go.set()
    await asyncio.gather(flush, compaction)
    crashed = tmp_path / "crashed"
    crashed.mkdir()
    for file in tmp_path.glob("a.db*"):
        shutil.copy(file, crashed)
    await backend.close()
    backend = SqliteBackend(str(crashed / "a.db"))
    await backend.open()
    await check(backend)
    await backend.close()


async def test_a_path_that_is_taken_again_while_compaction_runs(tmp_path: Path) -> None:
    """The old stream is still in the tables. It is dropped first, and the new one waits for the next pass."""
    backend = SqliteBackend(str(tmp_path / "a.db"))
    writer = backend._writer = SlowToReturn(str(tmp_path / "a.db"))  # noqa: SLF001 - the seam where the thread can be held
    await backend.open()
    await fill(backend, 0, 3)
    await backend.compact()
    await fill(backend, 3, LAST_TAIL)
    await backend.commit([write_of(make_state("gone", stream_id=2))])
    await backend.commit([write_of(make_state("gone", stream_id=2, version=2), drop=True)])
    writer.go.clear()
    again = [
        write_of(make_state("s", version=LAST_TAIL + 1, tail=LAST_TAIL), drop=True),
        write_of(make_state("s", stream_id=3, tail=1), json_piece(0, b"7")),
    ]
    flush = asyncio.create_task(backend.commit(again))
    await asyncio.to_thread(writer.held.wait, 20)
    compaction = asyncio.create_task(backend.compact(["s"]))  # has to clear what is gone, and stands behind the flush
    await asyncio.sleep(0)
    writer.go.set()
    assert await flush == frozenset()
    await compaction
    await backend.compact()
    loaded = await backend.load("s")
    assert loaded is not None
    assert loaded.state.id == 3
    assert [piece.data for piece in await backend.read(3, 0, 1, 1 << 20)] == [b"7"]
    await backend.close()


@pytest.mark.parametrize("compacted", [False, True])
async def test_one_flush_of_what_is_there_and_what_is_not(tmp_path: Path, compacted: bool) -> None:
    """A creation at a path in use is refused, and the rest of its flush is not, wherever the streams are stored."""
    path = str(tmp_path / "a.db")
    backend = SqliteBackend(path)
    await backend.open()
    names = ["s", 'täken ☃ "quoted" \\', "third"]
    await backend.commit([write_of(make_state(name, stream_id=number)) for number, name in enumerate(names, 1)])
    if compacted:
        await backend.compact()
    refused = await backend.commit(
        [
            write_of(make_state("s", version=2, tail=1), json_piece(0, b"1")),
            write_of(make_state(names[1], stream_id=4)),
            write_of(make_state("new", stream_id=5, tail=1), json_piece(0, b"5")),
            write_of(make_state("new", stream_id=6)),
            write_of(make_state("third", stream_id=3, version=2), drop=True),
            write_of(make_state("third", stream_id=7)),
            write_of(make_state("fourth", stream_id=8, version=3)),
        ]
    )
    assert refused == {1, 3, 6}
    for _ in range(2):
        loaded = {name: await backend.load(name) for name in (*names, "new", "fourth")}
        ids = {name: found and (found.state.id, found.state.version) for name, found in loaded.items()}
        assert ids == {"s": (1, 2), names[1]: (2, 1), "third": (7, 1), "new": (5, 1), "fourth": None}
        await backend.close()
        await (backend := SqliteBackend(path)).open()
    await backend.close()


async def test_compaction_leaves_few_large_blobs(tmp_path: Path) -> None:
    """A long stream is a few rows, however many flushes wrote it."""
    path = str(tmp_path / "a.db")
    backend = SqliteBackend(path)
    await backend.open()
    text = b'"' + b"x" * 1000 + b'"'
    for n in range(300):
        await backend.commit([write_of(make_state("s", version=n + 1, tail=n + 1), json_piece(n, text))])
        if n % 10 == 0:
            await backend.compact()
    await backend.compact()
    pieces = await backend.read(1, 0, 300, 1 << 30)
    assert len(pieces) <= 6
    assert sum(len(piece.lengths or ()) for piece in pieces) == 300
    await backend.close()


@pytest.mark.parametrize("compacted", [False, True])
async def test_large_messages_survive_a_restart(tmp_path: Path, compacted: bool) -> None:
    """They are in parts before and after compaction. Parts that no flush refers to are deleted at the next start."""
    path = str(tmp_path / "a.db")
    large = b'"' + b"y" * 1_200_000 + b'"'
    streams = Streams(backend := SqliteBackend(path))
    await streams.open()
    await streams.create("s", Create(JSON, payload=join_messages([large])))
    await streams.append("s", json_append(b"1"))
    await streams.append("s", json_append(large, b"2"))
    await backend.stage(large)
    assert count(path, "parts") == 9
    if compacted:
        await backend.compact()
    await streams.close()
    for _ in range(2):
        streams = Streams(backend := SqliteBackend(path))
        await streams.open()
        assert count(path, "parts") == 6
        pieces = await backend.read((await streams.head("s")).id, 0, 4, 1 << 30)
        assert b",".join(piece.data for piece in pieces) == b",".join([large, b"1", large, b"2"])
        await streams.close()
    await streams_deleted(path)
    assert count(path, "parts") == 0


async def streams_deleted(path: str) -> None:
    streams = Streams(backend := SqliteBackend(path))
    await streams.open()
    await streams.delete("s")
    await backend.compact()
    await streams.close()


def count(path: str, table: str) -> int:
    connection = sqlite3.connect(path)
    rows: int = connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
    connection.close()
    return rows


async def test_space_comes_back_after_a_drop(tmp_path: Path) -> None:
    """A dropped stream leaves no rows behind."""
    path = str(tmp_path / "a.db")
    backend = SqliteBackend(path)
    await backend.open()
    await fill(backend, 0, LAST_TAIL)
    await backend.compact()
    await backend.commit([write_of(make_state("s", version=LAST_TAIL + 1, tail=LAST_TAIL), drop=True)])
    await backend.compact()
    await backend.close()
    assert [count(path, table) for table in ("streams", "blobs", "journal")] == [0, 0, 0]


def test_the_migrated_schema_is_the_schema(tmp_path: Path) -> None:
    """A migrated database has exactly the tables, columns and indexes of the code."""
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext
    from sqlalchemy import create_engine

    path = str(tmp_path / "a.db")
    assert migrate_sqlite(path)
    assert not migrate_sqlite(path)
    engine = create_engine(f"sqlite:///{path}")
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []
    engine.dispose()


def test_the_newest_revision_is_the_one_the_code_knows() -> None:
    """`SCHEMA_VERSION` is Alembic's head. A new revision must change both."""
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    from durable_chat.store.migrations import find_migrations

    config = Config()
    config.set_main_option("script_location", str(find_migrations()))
    assert ScriptDirectory.from_config(config).get_heads() == [SCHEMA_VERSION]


async def test_a_newer_database_is_left_alone(tmp_path: Path) -> None:
    """The error names its version, and nothing in it is changed."""
    path = str(tmp_path / "a.db")
    migrate_sqlite(path)
    connection = sqlite3.connect(path)
    with connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    before = list(connection.iterdump())
    backend = SqliteBackend(path)
    with pytest.raises(StartError, match="9999"):
        await backend.open()
    assert list(connection.iterdump()) == before
    assert read_version(connection) == "9999"
    connection.close()


async def test_a_second_process_is_refused(tmp_path: Path) -> None:
    """The error names PostgreSQL. The second process can open the file when the first has ended."""
    path = str(tmp_path / "a.db")
    backend = SqliteBackend(path)
    await backend.open()
    program = (
        "import asyncio, sys\n"
        "from durable_chat.errors import StartError\n"
        "from durable_chat.store.sqlite.backend import SqliteBackend\n"
        "async def main():\n"
        f"    backend = SqliteBackend({path!r})\n"
        "    try: await backend.open()\n"
        "    except StartError as error: sys.exit(str(error))\n"
        "    await backend.close()\n"
        "asyncio.run(main())\n"
    )
    root = str(Path(__file__).parent.parent.parent)
    run = [sys.executable, "-c", program]
    refused = subprocess.run(run, cwd=root, capture_output=True, text=True, timeout=30)
    assert refused.returncode == 1
    assert "PostgreSQL" in refused.stderr
    await backend.close()
    assert subprocess.run(run, cwd=root, capture_output=True, timeout=30).returncode == 0


async def test_a_failed_compaction_is_a_failed_store(tmp_path: Path) -> None:
    """The store reports the failure at once, not only at the next append."""
    path = str(tmp_path / "a.db")
    backend = SqliteBackend(path)
    streams = Streams(backend)
    await streams.open()
    await streams.create("s", Create(JSON))
    with sqlite3.connect(path) as connection:
        connection.execute("DROP TABLE streams")
    connection.close()
    with pytest.raises(StoreFailed):
        await backend.compact()
    assert isinstance(streams.failure, StoreFailed)
    await streams.close()


async def test_one_process_opens_a_database_once(tmp_path: Path) -> None:
    """This also holds under another name of the file. The refused attempt does not affect the first one."""
    path = tmp_path / "a.db"
    backend = SqliteBackend(str(path))
    await backend.open()
    (tmp_path / "link.db").hardlink_to(path)
    for name in ("a.db", "link.db"):
        with pytest.raises(StartError, match="This process"):
            await SqliteBackend(str(tmp_path / name)).open()
    (tmp_path / "link.db").unlink()
    await fill(backend, 0, LAST_TAIL)
    await backend.close()
    again = SqliteBackend(str(path))
    await again.open()
    await check(again)
    await again.close()


async def test_a_damaged_journal_keeps_the_store_from_opening(tmp_path: Path) -> None:
    """Nothing is guessed, and nothing is deleted."""
    path = str(tmp_path / "a.db")
    backend = SqliteBackend(path)
    await backend.open()
    await fill(backend, 0, 2)
    await backend.close()
    connection = sqlite3.connect(path)
    with connection:
        connection.execute("UPDATE journal SET payload = x'c1' WHERE seq = 2")
    connection.close()
    with pytest.raises(StartError, match="journal"):
        await SqliteBackend(path).open()
    assert count(path, "journal") == 2


@pytest.mark.parametrize("kind", ["folder", "missing folder", "no database"])
async def test_what_cannot_be_opened_is_said_in_a_sentence(tmp_path: Path, kind: str) -> None:
    """There is no traceback and no half-open store."""
    path = tmp_path / "a.db"
    if kind == "folder":
        path.mkdir()
    elif kind == "no database":
        path.write_bytes(b"this is no database at all, but a text file" * 40)
    else:
        path = tmp_path / "missing" / "a.db"
    backend = SqliteBackend(str(path))
    with pytest.raises(StartError, match=r"a\.db"):
        await backend.open()
