"""The servers compared: how each is started, what it promises with an acknowledgement, and its version."""

from __future__ import annotations

import asyncio
import json
import os
import platform
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path

from benchmarks.measures import LoadError, Memory, Target, memory_of, now_s
from benchmarks.ports import HeldPort
from benchmarks.wire import Connection, opened, request

ROOT = Path(__file__).parent.parent
INTEROP = ROOT / "tests" / "interop"

# Either server starts within 2 s on an idle machine.
READY_MAX_S = 30.0
POLL_S = 0.01
# A server that has not ended by then is killed; its data is thrown away anyhow.
STOP_MAX_S = 10.0
READERS_MAX = 5000
# What is shown of the output of a server that did not start.
OUTPUT_SHOWN_MAX = 2000
# And of what one said that failed during a load.
LINE_SHOWN_MAX = 200


@dataclass(frozen=True, slots=True)
class Contender:
    """
    In `command` and `environment` {root}, {port} and {folder} stand for this checkout, the port, the folder for data.

    `ready_path` is answered below 500 once the server serves. `behind` is a server that this one uses: it is started
    first, and {behind} stands for its port.
    """

    name: str
    durability: str
    version: Callable[[], str]
    command: tuple[str, ...]
    environment: dict[str, str]
    ready_path: str
    behind: Contender | None = None


def _ours_version() -> str:
    return (
        f"durable-chat {metadata.version('durable-chat')}{_revision()}, Python {platform.python_version()}, "
        f"uvicorn {metadata.version('uvicorn')}, SQLite {sqlite3.sqlite_version}"
    )


def _revision() -> str:
    """The commit measured, where this is a git checkout."""
    command = ["git", "describe", "--always", "--dirty"]
    try:
        answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return f" ({answer.stdout.strip()})"


def _reference_version() -> str:
    return f"@durable-streams/server {_npm_version('server')} with dataDir, Node.js {_node_version()}"


def _upstream_version() -> str:
    """The reference's is told beside it."""
    return (
        f"@durable-streams/tanstack-ai-transport {_npm_version('tanstack-ai-transport')} in an app of its own before "
        f"@durable-streams/server {_npm_version('server')} with dataDir, Node.js {_node_version()}"
    )


def _node_version() -> str:
    if not shutil.which("node"):
        raise LoadError("no Node.js: start the benchmark with scripts/bench, which finds one")
    return subprocess.run(["node", "--version"], capture_output=True, text=True, timeout=30, check=True).stdout.strip()


def _npm_version(name: str) -> str:
    package = json.loads((INTEROP / "node_modules/@durable-streams" / name / "package.json").read_text())
    return str(package["version"])


OURS = Contender(
    name="ours",
    durability="acknowledged after fsync: SQLite, WAL, synchronous=FULL, one flush for all that gathered",
    version=_ours_version,
    command=(sys.executable, "-m", "durable_chat", "serve", "--port", "{port}"),
    environment={
        "DURABLE_CHAT_STORE": "sqlite:///{folder}/bench.db",
        # One stream has more than a session is meant to have.
        "DURABLE_CHAT_READERS_PER_SESSION_MAX": str(READERS_MAX),
    },
    ready_path="/readyz",
)
REFERENCE = Contender(
    name="reference",
    durability="acknowledged after fdatasync of the stream's file, one for all that wait on that file",
    version=_reference_version,
    command=("node", "{root}/tests/interop/reference-server.mjs", "{port}", "{folder}"),
    environment={},
    ready_path="/",
)
STREAMS = (OURS, REFERENCE)
"""Servers of streams."""
CHAT = (
    replace(OURS, command=(sys.executable, "-m", "benchmarks.stamped", "{port}")),
    Contender(
        name="upstream",
        durability="each chunk of a session awaits the fdatasync of the one before it; what gathers goes in one append",
        version=_upstream_version,
        command=(
            "node",
            "{root}/tests/interop/chat-app.mjs",
            "{port}",
            "http://127.0.0.1:{behind}/v1/stream",
        ),
        environment={},
        ready_path="/",
        behind=REFERENCE,
    ),
)
"""Servers of chats, with a model that says when its deltas leave it."""


@asynccontextmanager
async def running(contender: Contender, parent: Path, filled: Path | None = None) -> AsyncIterator[Target]:
    """
    A fresh server before the one it uses, each with a folder of its own under `parent`: empty, or with a copy of what
    is in `filled`. All are gone afterwards. Raises LoadError.
    """
    async with AsyncExitStack() as stack:
        behind = None
        if contender.behind is not None:
            place = stack.enter_context(_folder(contender.behind, parent))
            behind = await stack.enter_async_context(serving(contender.behind, place))
        folder = stack.enter_context(_folder(contender, parent, filled))
        target = await stack.enter_async_context(serving(contender, folder, behind))
        yield target if behind is None else _both(target, behind)


def _both(target: Target, behind: Target) -> Target:
    def cpu_s() -> float:
        return target.cpu_s() + behind.cpu_s()

    def memory() -> Memory:
        return target.memory() + behind.memory()

    return replace(target, cpu_s=cpu_s, memory=memory, pid=None)  # two processes: nothing counts both


@contextmanager
def _folder(contender: Contender, parent: Path, filled: Path | None = None) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix=f"{contender.name}-", dir=parent))
    try:
        if filled is not None:
            shutil.copytree(filled, folder, dirs_exist_ok=True)
            _settle(folder)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _settle(folder: Path) -> None:
    """On the disk before the load begins, whose own flushes would wait for these hundreds of megabytes otherwise."""
    for file in folder.rglob("*"):
        if file.is_file():
            with file.open("rb+") as copied:
                os.fsync(copied)


@asynccontextmanager
async def serving(contender: Contender, folder: Path, behind: Target | None = None) -> AsyncIterator[Target]:
    """A server on a folder, which stays. Raises LoadError."""
    held = HeldPort()
    port = held.number
    # None of the settings or keys of this shell; what finds programs and this checkout is kept.
    kept = {name: value for name, value in os.environ.items() if name in {"PATH", "HOME", "LANG", "TMPDIR"}}
    places = {"root": ROOT, "port": port, "folder": folder, "behind": behind.port if behind else ""}
    settings = {name: value.format_map(places) for name, value in contender.environment.items()}
    environment = {**kept, "PYTHONPATH": str(ROOT), **settings}
    command = [word.format_map(places) for word in contender.command]
    begun_s = now_s()
    with (folder / "output").open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *command, cwd=folder, env=environment, stdout=output, stderr=output
        )
    try:
        await _ready(contender, process, port, folder)
        ready_s = now_s() - begun_s
        with _ends_told(contender, process, folder):
            pid = process.pid
            yield Target(port, lambda: _cpu_s(pid), lambda: memory_of(pid), ready_s, contender.name, pid)
    finally:
        await _stop(process)


@contextmanager
def _ends_told(contender: Contender, process: asyncio.subprocess.Process, folder: Path) -> Iterator[None]:
    """A load that fails says what its server has said of it, and whether that has ended."""
    try:
        yield
    except LoadError as error:
        ended = ", and it has ended" if _has_ended(process.pid) else ""
        # A trace of calls, or Node.js's name and version, may be below what says why.
        said = [line.strip() for line in _output(folder).splitlines() if "rror" in line]
        if ended or said:
            last = said[-1][:LINE_SHOWN_MAX] if said else "nothing"
            raise LoadError(f"{error}; {contender.name} said: {last}{ended}") from error
        raise


def _has_ended(pid: int) -> bool:
    """Also before anybody has taken note of it; False where the system does not say."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except FileNotFoundError:
        return Path("/proc/self/stat").exists()


def _output(folder: Path) -> str:
    return (folder / "output").read_text(errors="replace")[-OUTPUT_SHOWN_MAX:]


async def _ready(contender: Contender, process: asyncio.subprocess.Process, port: int, folder: Path) -> None:
    try:
        async with asyncio.timeout(READY_MAX_S):
            while process.returncode is None:
                if await _answers(contender, port):
                    return
                await asyncio.sleep(POLL_S)
    except TimeoutError:
        pass
    raise LoadError(f"{contender.name} did not start:\n{_output(folder)}")


async def _answers(contender: Contender, port: int) -> bool:
    try:
        async with opened(port, Connection) as (connection,):
            return (await connection.ask(request("GET", contender.ready_path))).status < 500
    except LoadError:
        return False


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    process.terminate()
    try:
        async with asyncio.timeout(STOP_MAX_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


def _cpu_s(pid: int) -> float:
    """CPU time the process has used, all threads; 0 where the system does not say (there is no /proc)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
