"""A database file under a running server: who may open it, and what happens when it is moved or deleted."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.app.test_starting import CANNOT_START, refused, run
from tests.conftest import Serve
from tests.servers import Process, Server

STREAM = "/v1/stream/log"
TEXT = {"Content-Type": "text/plain"}

Harm = Callable[[Path], None]


def database(server: Server) -> Path:
    return server.folder / "data" / "chat.db"


@pytest.fixture
def held(serve: Serve, tmp_path: Path) -> Server:
    """Run a server whose database is in its own folder, with one acknowledged append."""
    (tmp_path / "server-0" / "data").mkdir(parents=True)
    server = serve(DURABLE_CHAT_STORE="sqlite:///data/chat.db")
    with httpx.Client(base_url=server.url) as client:
        assert client.put(STREAM, headers=TEXT, content=b"a").status_code == 201
    return server


def remove(path: Path) -> None:
    for name in ("", "-wal", "-shm", ".lock"):
        Path(f"{path}{name}").unlink(missing_ok=True)


def remove_only(path: Path) -> None:
    path.unlink()


def remove_log(path: Path) -> None:
    Path(f"{path}-wal").unlink()


def replace(path: Path) -> None:
    copy = path.with_name("copy.db")
    shutil.copy(path, copy)
    copy.rename(path)


def rename_folder(path: Path) -> None:
    path.parent.rename(path.parent.with_name("moved"))


def point_elsewhere(path: Path) -> None:
    shutil.copytree(path.parent, path.parent.with_name("other"))
    path.parent.rename(path.parent.with_name("moved"))
    path.parent.symlink_to("other")


HARMS: list[Harm] = [remove, remove_only, remove_log, replace, rename_folder, point_elsewhere]


def named(harm: Harm) -> str:
    return harm.__name__


@pytest.mark.parametrize("harm", HARMS, ids=named)
def test_nothing_is_acknowledged_into_a_file_that_is_gone(held: Server, harm: Harm) -> None:
    """After the file is gone, every append is refused, and the log names the missing file and what to do."""
    harm(database(held))
    with httpx.Client(base_url=held.url) as client:
        for _ in range(3):
            answer = client.post(STREAM, headers=TEXT, content=b"b")
            assert (answer.status_code, answer.json()["code"]) == (503, "store_failed")
        assert client.get("/readyz").status_code == 503
        assert client.put("/v1/stream/other", headers=TEXT).status_code == 503
    held.wait_said("(removed, moved or replaced.*start the server again)")


@pytest.mark.parametrize("harm", HARMS, ids=named)
def test_a_server_that_nobody_writes_to_sees_it_too(held: Server, harm: Harm) -> None:
    """`/readyz` turns to 503 without an append."""
    harm(database(held))
    held.wait_said("(removed, moved or replaced)")
    with httpx.Client(base_url=held.url) as client:
        assert client.get("/readyz").json()["code"] == "store_failed"
        assert client.get("/healthz").status_code == 200


def test_a_folder_that_is_moved_back_has_lost_nothing(held: Server) -> None:
    """After the folder is moved back and the server restarted, all acknowledged appends exist."""
    data = database(held).parent
    rename_folder(database(held))
    with httpx.Client(base_url=held.url) as client:
        assert client.post(STREAM, headers=TEXT, content=b"b").status_code == 503
    held.kill()
    data.with_name("moved").rename(data)
    held.start()
    with httpx.Client(base_url=held.url) as client:
        assert client.get(STREAM).content in (b"a", b"ab")  # the refused append may have reached the disk


def test_a_removed_write_ahead_log_is_saved_by_a_clean_stop(held: Server) -> None:
    """A clean shutdown saves a removed write-ahead log, as the log message promises."""
    remove_log(database(held))
    held.wait_said("(stop the server with SIGTERM)")
    held.terminate()
    held.start()
    with httpx.Client(base_url=held.url) as client:
        assert client.get(STREAM).content == b"a"


def symbolic(path: Path, folder: Path) -> Path:
    link = folder / "link.db"
    link.symlink_to(path)
    return link


def hard(path: Path, folder: Path) -> Path:
    link = folder / "link.db"
    os.link(path, link)
    return link


def unlocked(path: Path, _folder: Path) -> Path:
    Path(f"{path}.lock").unlink()
    return path


@pytest.mark.parametrize("name", [symbolic, hard, unlocked])
def test_a_second_process_is_refused_by_any_name(
    held: Server, processes: list[Process], name: Callable[[Path, Path], Path], tmp_path: Path
) -> None:
    """
    The file itself is locked, under any name. The error names the process that holds it, and `migrate` is refused by
    the same lock.
    """
    folder = tmp_path / "second"
    folder.mkdir()
    store = f"sqlite:///{name(database(held), folder)}"
    message = refused(folder, processes, DURABLE_CHAT_STORE=store)
    assert "PostgreSQL" in message
    assert f"(pid {held.pid})" in message
    done = run(folder, "migrate", "--store", store)
    assert done.returncode == CANNOT_START
    assert f"Another process (pid {held.pid})" in done.stderr
    with httpx.Client(base_url=held.url) as client:
        assert client.post(STREAM, headers=TEXT, content=b"b").status_code == 204


def test_a_database_with_two_names_is_not_opened(held: Server, processes: list[Process], tmp_path: Path) -> None:
    """
    A database with two names is refused: after a crash the write-ahead log is beside only one of them, so messages
    would be missing under the other.
    """
    held.kill()
    link = hard(database(held), tmp_path)
    assert "hard links" in refused(tmp_path / "second", processes, DURABLE_CHAT_STORE=f"sqlite:///{link}")
    link.unlink()
    held.start()
    with httpx.Client(base_url=held.url) as client:
        assert client.get(STREAM).content == b"a"


def test_other_programs_may_read_the_database_meanwhile(held: Server) -> None:
    """The lock keeps other servers out, but not SQLite's shell or a backup."""
    with sqlite3.connect(f"file:{database(held)}?mode=ro", uri=True) as reading:
        assert reading.execute("SELECT count(*) FROM journal").fetchone()[0] > 0
    reading.close()
    with httpx.Client(base_url=held.url) as client:
        assert client.post(STREAM, headers=TEXT, content=b"b").status_code == 204
