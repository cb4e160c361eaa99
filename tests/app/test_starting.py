"""An error at start is one sentence with its own exit code; other cases start."""

from __future__ import annotations

import socket
import sqlite3
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from durable_chat.cli import refuse_unprotected
from durable_chat.config.settings import Settings
from durable_chat.errors import StartError
from tests.conftest import Serve
from tests.servers import Process, Server, clean_environment

CANNOT_START = 3
USAGE = 2


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "refused"
    folder.mkdir()
    return folder


def refused(folder: Path, processes: list[Process], *args: str, **settings: str) -> str:
    """Run a server that does not start and return its one sentence."""
    server = Server(folder, settings, args)
    processes.append(server)
    server.start(wait=False)
    assert server.wait() == CANNOT_START, server.output
    lines = server.output.splitlines()
    assert len(lines) == 1, server.output
    assert lines[0].startswith("durable-chat: ")
    return lines[0]


def test_second_process_on_the_file(serve: Serve, folder: Path, processes: list[Process]) -> None:
    """A second process on a SQLite file is refused, and the first one continues."""
    server = serve()
    store = f"sqlite:///{server.folder}/durable-chat.db"
    message = refused(folder, processes, DURABLE_CHAT_STORE=store)
    assert "PostgreSQL" in message
    assert server.answers_ready()


def test_database_from_a_newer_version(serve: Serve, processes: list[Process]) -> None:
    """A database that a newer version has migrated is refused and not changed."""
    server = serve()
    server.terminate()
    path = server.folder / "durable-chat.db"
    with sqlite3.connect(path) as database:
        database.execute("UPDATE alembic_version SET version_num = 'from-the-future'")
    database.close()
    assert "newer" in refused(server.folder / "again", processes, DURABLE_CHAT_STORE=f"sqlite:///{path}")
    with sqlite3.connect(path) as database:
        assert database.execute("SELECT version_num FROM alembic_version").fetchall() == [("from-the-future",)]
    database.close()


def test_no_database(folder: Path, processes: list[Process]) -> None:
    """A file that is not a database is refused and not changed."""
    path = folder / "chat.db"
    path.write_bytes(b"these are my tax records " * 100)
    refused(folder / "again", processes, DURABLE_CHAT_STORE=f"sqlite:///{path}")
    assert path.read_bytes() == b"these are my tax records " * 100


@pytest.mark.parametrize("path", ["{folder}/missing/chat.db", "{folder}/file/chat.db", "/proc/chat.db"])
def test_unwritable_folder(folder: Path, processes: list[Process], path: str) -> None:
    """The error for a database that cannot be written names it."""
    (folder / "file").write_text("no folder")
    path = path.format(folder=folder)
    assert path in refused(folder, processes, DURABLE_CHAT_STORE=f"sqlite:///{path}")


def test_port_in_use(folder: Path, processes: list[Process]) -> None:
    """A port in use is reported before the store is opened."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        message = refused(folder, processes, "--port", str(port))
    assert str(port) in message
    assert not list(folder.glob("*.db*"))


def test_host_that_is_not_ours(folder: Path, processes: list[Process]) -> None:
    """The server cannot listen on an address of another machine (RFC 5737)."""
    refused(folder, processes, "--host", "192.0.2.1", "--open")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "chat.example"])
def test_public_host_without_secret(folder: Path, processes: list[Process], host: str) -> None:
    """A public host without protection is refused."""
    message = refused(folder, processes, "--host", host)
    assert "DURABLE_CHAT_TOKEN_SECRET and DS_SECRET" in message
    assert "--open" in message


REMOTE = "https://streams.example/v1/stream/s"


@pytest.mark.parametrize(
    ("settings", "missing"),
    [
        ({"secret": "s"}, "DURABLE_CHAT_TOKEN_SECRET"),
        ({"token_secret": "t" * 32}, "DS_SECRET"),
        ({"secret": "s", "token_secret": "t" * 32}, None),
        ({"open": True}, None),
        ({"store": REMOTE, "secret": "s"}, "DURABLE_CHAT_TOKEN_SECRET"),
        ({"store": REMOTE, "token_secret": "t" * 32}, None),
    ],
)
def test_public_host_on_purpose(settings: dict[str, Any], missing: str | None) -> None:
    """
    A public host is allowed when the sessions and the served streams are protected, or when public access is switched
    on.
    """
    if missing is None:
        refuse_unprotected(Settings(host="0.0.0.0", **settings))
    else:
        with pytest.raises(StartError, match=f"Set {missing}, or"):
            refuse_unprotected(Settings(host="0.0.0.0", **settings))


def test_unknown_model(folder: Path, processes: list[Process]) -> None:
    """An unknown model is an error at start, not in the first answer."""
    assert "gpt-17" in refused(folder, processes, DURABLE_CHAT_MODEL="nobody:gpt-17")
    assert not list(folder.glob("*.db*"))


@pytest.mark.parametrize(
    ("name", "value"),
    [("DURABLE_CHAT_PORT", "many"), ("DURABLE_CHAT_STORE", "nats://localhost"), ("ELECTRIC_URL", "https://e.example")],
)
def test_bad_setting(folder: Path, processes: list[Process], name: str, value: str) -> None:
    """The error for an invalid setting names it."""
    args = ("--port", "many") if name == "DURABLE_CHAT_PORT" else ()
    assert name in refused(folder, processes, *args, **{name: value})


def test_address_line(serve: Serve) -> None:
    """The start line gives the address, the store, the model and who may read and write, and nothing else."""
    server = serve()
    assert server.output.splitlines() == [
        f"durable-chat on {server.url}",
        f"  store: {server.folder.resolve()}/durable-chat.db",
        "  model: demo",
        "  chat: this machine only, not through a proxy. To serve others, set DURABLE_CHAT_TOKEN_SECRET or DS_SECRET",
        "  protocol: this machine only, not through a proxy",
    ]


def test_any_port(folder: Path, processes: list[Process]) -> None:
    """With port 0, the start line gives the port, and the server answers there."""
    server = Server(folder, args=("--port", "0"))
    processes.append(server)
    server.start(wait=False)
    url = server.wait_said(r"durable-chat on (http://127\.0\.0\.1:\d+)\n")
    with urllib.request.urlopen(f"{url}/healthz", timeout=20) as answer:
        assert answer.status == 200


def run(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "durable_chat", *args],
        cwd=folder,
        env=clean_environment({}),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_wrong_usage(folder: Path) -> None:
    """A usage error has another exit code than a failure."""
    for args in ((), ("fly",), ("serve", "--no-such-flag"), ("tail",), ("serve", "--workers", "2")):
        done = run(folder, *args)
        assert done.returncode == USAGE
        assert len(done.stderr.splitlines()) == 1, done.stderr
    assert "one process serves one SQLite file" in done.stderr


def test_migrate(folder: Path) -> None:
    """`migrate` creates the schema and may be run again. A mistyped name creates no database."""
    done = run(folder, "migrate", "--store", "sqlite:///chta.db")
    assert done.returncode == CANNOT_START
    assert "--create" in done.stderr
    assert list(folder.iterdir()) == []
    for args in (("--create",), ()):
        done = run(folder, "migrate", *args)
        assert done.returncode == 0, done.stderr
    with sqlite3.connect(folder / "durable-chat.db") as database:
        assert database.execute("SELECT count(*) FROM alembic_version").fetchone() == (1,)
    database.close()


def test_migrate_beside_a_server(server: Server) -> None:
    """`migrate` is refused while a server holds the file."""
    done = run(server.folder, "migrate")
    assert done.returncode == CANNOT_START
    assert "Another process" in done.stderr


def test_second_start_loads_little(server: Server) -> None:
    """When the schema exists, a start imports no provider, no Alembic, no SQLAlchemy and no HTTP client."""
    server.terminate()
    code = (
        "import asyncio, sys\n"
        "from durable_chat.app import create_app\n"
        "from durable_chat.config.settings import Settings\n"
        "import durable_chat.cli\n"
        "async def main():\n"
        "    async with create_app(Settings(model='demo')).lifespan():\n"
        "        print(*sorted({name.partition('.')[0] for name in sys.modules}))\n"
        "asyncio.run(main())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=server.folder,
        env=clean_environment({}),
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    loaded = set(done.stdout.split())
    assert "durable_chat" in loaded
    assert not loaded & {"alembic", "sqlalchemy", "httpx", "anthropic", "prometheus_client"}
