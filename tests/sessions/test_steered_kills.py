"""A server that dies while a message is heard: nothing is said twice, and every run has one end."""

from __future__ import annotations

import http.client
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from tests.servers import ROOT, Process
from tests.sessions.test_recovery import ask, check_readers, read_log, say, until
from tests.transcripts.logs import check_runs, fold

POINTS = {
    "before the message waits": ("turn-queued", "before", ["u1"]),
    "while the message waits": ("turn-queued", "after", ["u1", "u2"]),
    "before the answer ends where it hears": ("RUN_FINISHED", "before", ["u1", "u2"]),
    "between the two runs": ("RUN_FINISHED", "after", ["u1", "u2"]),
    "before the message is shown": ('"content":"First."', "before", ["u1", "u2"]),
    "after the message is shown": ('"content":"First."', "after", ["u1", "u2"]),
    "before the next step": ("Second", "before", ["u1", "u2"]),
    "amid the next step": ("Second", "after", ["u1", "u2"]),
}
"""The content of the flush at which the server dies, and the user's messages that are there afterwards."""


def start(folder: Path, processes: list[Process], die_at: str = "", die: str = "after") -> Process:
    app = "tests.sessions.steered_dying:app"
    command = (sys.executable, "-m", "uvicorn", app, "--port", "{port}", "--log-level", "warning")
    process = Process(command, folder, {"DIE_AT": die_at, "DIE": die, "PYTHONPATH": str(ROOT)})
    process.ready_path = "/readyz"
    processes.append(process)
    process.start()
    return process


@pytest.mark.parametrize("point", POINTS)
def test_killed_at(tmp_path: Path, processes: list[Process], point: str) -> None:
    """A message that was acknowledged is in the transcript once, all readers fold the same, and both turns go on."""
    die_at, die, users = POINTS[point]
    process = start(tmp_path, processes, die_at, die)
    assert say(process, "s", "one", "u1") == 202
    until(process, "s", lambda chunks: any(chunk.get("delta") == "First." for chunk in chunks))
    with suppress(OSError, http.client.HTTPException):
        say(process, "s", "two", "u2", "&turns=steer")
    assert process.wait() == -9
    process = start(tmp_path, processes)
    chunks = read_log(process, "s")
    check_runs(chunks)
    assert [message["id"] for message in fold(chunks) if message["role"] == "user"] == users
    check_readers(process, "s", chunks)
    assert say(process, "s", "two", "u2", "&mode=await") == 200
    assert say(process, "s", "three", "u3", "&mode=await") == 200
    chunks = read_log(process, "s")
    check_runs(chunks)
    check_readers(process, "s", chunks)
    assert [message["id"] for message in fold(chunks) if message["role"] == "user"] == ["u1", "u2", "u3"]


@pytest.mark.parametrize(("die", "users"), [("before", ["u1", "u2"]), ("after", ["u1"])])
def test_killed_while_a_message_is_taken_back(
    tmp_path: Path, processes: list[Process], die: str, users: list[str]
) -> None:
    """The message is gone for good, or it was not taken back."""
    process = start(tmp_path, processes, "turn-taken-back", die)
    assert say(process, "s", "one", "u1") == 202
    until(process, "s", lambda chunks: any(chunk.get("delta") == "First." for chunk in chunks))
    assert say(process, "s", "two", "u2") == 202
    with suppress(OSError, http.client.HTTPException):
        ask(process, "DELETE", "/api/chat-turns?id=s&messageId=u2")
    assert process.wait() == -9
    process = start(tmp_path, processes)
    chunks = read_log(process, "s")
    assert len(check_runs(chunks)) == len(users)
    assert [message["id"] for message in fold(chunks) if message["role"] == "user"] == users
    check_readers(process, "s", chunks)
    assert say(process, "s", "two", "u2", "&mode=await") == 200
