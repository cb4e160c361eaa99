"""`durable-chat doctor` finds any damage in a store, names the stream, and changes nothing."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from durable_chat.protocol.messages import BINARY, JSON
from durable_chat.store.sqlite.doctor import Doctor
from tests.conftest import Serve
from tests.store.test_damage import BLOB_DAMAGES, JOURNAL_DAMAGES, LENGTHS_DAMAGES, damage, fill
from tests.store.test_staging import LARGE_BYTES, append, crash, opened

ROOT = Path(__file__).parent.parent.parent
TABLE_DAMAGES = BLOB_DAMAGES | LENGTHS_DAMAGES


def damages(path: Path) -> list[str]:
    doctor = Doctor(str(path), lambda _: None)
    found = list(doctor.damages())
    doctor.close()
    return found


def dump(path: Path) -> list[str]:
    connection = sqlite3.connect(path)
    lines = list(connection.iterdump())
    connection.close()
    return lines


@pytest.mark.parametrize("content_type", [BINARY, JSON])
@pytest.mark.parametrize("compacts", [True, False])
async def test_a_whole_store_has_no_damage(tmp_path: Path, content_type: str, compacts: bool) -> None:
    """The store may be closed or crashed, compacted, half compacted, or in the journal only, with pending drops."""
    path = tmp_path / "a.db"
    await fill(path, content_type, compacts=compacts)
    assert damages(path) == []
    async with opened(path) as (streams, backend):
        await streams.append("a", append(content_type, "large", LARGE_BYTES))
        await backend.stage(b"x" * 10)
        assert damages(path) == []
        assert damages(crash(path)) == []
        await streams.delete("a")
        assert damages(crash(path)) == []
        await backend.compact()
        assert damages(crash(path)) == []
    doctor = Doctor(str(path), lambda _: None)
    assert list(doctor.damages()) == []
    assert [note for note in doctor.notes() if "large appends" in note] != []
    doctor.close()


@pytest.mark.parametrize("kind", TABLE_DAMAGES)
async def test_damage_in_the_tables_is_found(tmp_path: Path, kind: str) -> None:
    """It is reported with the path of the stream. Other streams are not named."""
    path = tmp_path / "a.db"
    await fill(path, JSON, compacts=True)
    damage(path, TABLE_DAMAGES[kind])
    before = dump(path)
    found = damages(path)
    assert found and all(line.startswith("a: ") for line in found), found
    assert dump(path) == before


@pytest.mark.parametrize("kind", JOURNAL_DAMAGES)
async def test_damage_in_the_journal_is_found(tmp_path: Path, kind: str) -> None:
    """It is reported with the number of the row."""
    path = tmp_path / "a.db"
    await fill(path, BINARY, compacts=False)
    damage(path, JOURNAL_DAMAGES[kind])
    assert [line for line in damages(path) if line.startswith("the journal: row")]


@pytest.mark.parametrize("table", ["streams", "blobs", "parts"])
async def test_a_page_that_is_overwritten_is_found(tmp_path: Path, table: str) -> None:
    """SQLite's own integrity check runs too."""
    path = tmp_path / "a.db"
    await fill(path, BINARY, compacts=True)
    connection = sqlite3.connect(path)
    page = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (table,)).fetchone()[0]
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    connection.close()
    with path.open("r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(b"\xff" * 4096)
    assert damages(path)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "durable_chat", "doctor", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)


async def test_the_command_says_what_is_damaged(tmp_path: Path) -> None:
    """The exit code is 0 for an intact store, 1 for a damaged one, and 3 if there is none. Progress goes to stderr."""
    path = tmp_path / "a.db"
    await fill(path, BINARY, compacts=True)
    done = run("--store", f"sqlite:///{path}")
    assert (done.returncode, "damaged: 0" in done.stdout) == (0, True), done.stderr
    assert "checking" in done.stderr
    damage(path, BLOB_DAMAGES["a part is cut"])
    done = run("--store", f"sqlite:///{path}")
    assert (done.returncode, "damaged: a: part 1 of" in done.stdout) == (1, True), done.stdout
    done = run("--store", f"sqlite:///{tmp_path}/none.db")
    assert (done.returncode, "There is no database" in done.stderr) == (3, True)
    assert not (tmp_path / "none.db").exists()
    assert run("--store", "memory://").returncode == 3


async def test_the_command_runs_beside_a_server(serve: Serve, tmp_path: Path) -> None:
    """It also runs after a crash, on the files as they were left."""
    server = serve()
    database = next(Path(server.folder).glob("*.db"))
    done = run("--store", f"sqlite:///{database}")
    assert done.returncode == 0, done.stderr
    server.kill()
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in (database.name, f"{database.name}-wal"):
        shutil.copy(database.parent / name, copy)
    done = run("--store", f"sqlite:///{copy / database.name}")
    assert done.returncode == 0, done.stderr
