"""Answers whose process died: each gets exactly one end in the log."""

from __future__ import annotations

import http.client
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Serve
from tests.servers import ROOT, Process, Server
from tests.transcripts.logs import Chunks, check_runs, fold, kinds

SESSIONS = 50
LONG = {"DURABLE_CHAT_DEMO_CHUNKS": "100000", "DURABLE_CHAT_DEMO_DELAY_MS": "20"}
WAIT_MAX_S = 60.0
"""A server on a busy machine needs some seconds to start or to go on."""


def ask(process: Process, method: str, path: str, body: object = None) -> tuple[int, bytes, dict[str, str]]:
    connection = http.client.HTTPConnection("127.0.0.1", process.port, timeout=WAIT_MAX_S)
    try:
        sent = None if body is None else json.dumps(body)
        connection.request(method, path, sent, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.read(), {name.lower(): value for name, value in answer.getheaders()}
    finally:
        connection.close()


def say(process: Process, session: str, text: str, message_id: str = "u1", query: str = "") -> int:
    body = {"messages": [{"id": message_id, "role": "user", "parts": [{"type": "text", "content": text}]}]}
    return ask(process, "POST", f"/api/chat?id={session}{query}", body)[0]


def read_log(process: Process, session: str) -> Chunks:
    found: Chunks = []
    offset = "-1"
    while True:
        status, body, headers = ask(process, "GET", f"/v1/stream/chat-{session}?offset={offset}")
        if status == 404:
            return found
        found += json.loads(body)
        offset = headers["stream-next-offset"]
        if "stream-up-to-date" in headers:
            return found


def until(process: Process, session: str, wanted: Callable[[Chunks], bool]) -> Chunks:
    """Follow a log by long-polls until it is as wanted. Return all of it."""
    found: Chunks = []
    offset, deadline = "-1", time.monotonic() + WAIT_MAX_S
    while not wanted(found):
        assert time.monotonic() < deadline, f"not seen in {session}: {found[-3:]}"
        status, body, headers = ask(process, "GET", f"/api/chat-stream?id={session}&offset={offset}&live=long-poll")
        assert status in (200, 204), body
        found += json.loads(body) if status == 200 else []
        offset = headers["stream-next-offset"]
    return found


def has(kind: str) -> Callable[[Chunks], bool]:
    return lambda chunks: kind in kinds(chunks)


def check_readers(process: Process, session: str, chunks: Chunks) -> None:
    """Check that the server's snapshot is what a reader of the whole log has."""
    snapshot = json.loads(ask(process, "GET", f"/api/chat-snapshot?id={session}")[1])
    assert snapshot["messages"] == json.loads(json.dumps(fold(chunks)))
    assert snapshot["activeRun"] is None


@contextmanager
def watching(process: Process, session: str, offset: str = "-1") -> Iterator[Iterator[tuple[str, Any]]]:
    """The events of a raw SSE read."""
    connection = http.client.HTTPConnection("127.0.0.1", process.port, timeout=WAIT_MAX_S)
    try:
        connection.request("GET", f"/api/chat-stream?id={session}&offset={offset}&live=sse")
        answer = connection.getresponse()
        assert answer.status == 200, answer.read()
        yield events(answer)
    finally:
        connection.close()


def events(answer: http.client.HTTPResponse) -> Iterator[tuple[str, Any]]:
    name = ""
    while line := answer.readline():
        if line.startswith(b"event:"):
            name = line[6:].strip().decode()
        elif line.startswith(b"data:"):
            yield name, json.loads(line[5:])


def batches(read: Iterator[tuple[str, Any]]) -> Iterator[tuple[Chunks, str]]:
    """Chunks with the offset after them, until the connection is cut. Chunks without an offset are left out."""
    held: Chunks = []
    try:
        for name, data in read:
            if name == "data":
                held = data
            else:
                yield held, data["streamNextOffset"]
                held = []
    except (OSError, http.client.HTTPException):
        return


# Killed by others.


def test_fifty_killed_answers_end_before_the_server_is_ready(serve: Serve) -> None:
    """
    After kill -9 during 50 answers, each has one end and all of its text when the server is ready (`-s` prints how long
    that takes).
    """
    server = serve(**LONG)
    assert say(server, "done", "hello, tool", query="") == 202
    until(server, "done", has("TOOL_CALL_RESULT"))
    ask(server, "POST", "/api/chat-stop?id=done")
    finished = read_log(server, "done")
    for number in range(SESSIONS):
        assert say(server, f"s{number}", "hello, think" if number % 2 else "hello") == 202
    shown = {f"s{n}": until(server, f"s{n}", has("TEXT_MESSAGE_CONTENT")) for n in range(SESSIONS)}
    server.kill()
    server.start(wait=False)
    opened_s = wait_open(server)
    server.wait_ready()
    print(f"{SESSIONS} interrupted answers: ready {time.monotonic() - opened_s:.2f} s after the port was open")  # noqa: T201 - a figure to read
    for session, before in shown.items():
        chunks = read_log(server, session)
        assert chunks[: len(before)] == before, "what was shown is gone"
        (end,) = check_runs(chunks)
        assert (end["type"], end["code"]) == ("RUN_ERROR", "interrupted")
        check_readers(server, session, chunks)
    assert read_log(server, "done") == finished
    assert say(server, "s0", "again", "u2") == 202


def wait_open(server: Server) -> float:
    """Wait until the port accepts requests. From then on reads are served, whether the server is ready or not."""
    deadline = time.monotonic() + WAIT_MAX_S
    while time.monotonic() < deadline:
        try:
            status, _, _ = ask(server, "GET", "/api/chat-snapshot?id=s1")
        except OSError:
            time.sleep(0.01)
            continue
        assert status == 200
        return time.monotonic()
    raise AssertionError(f"the port did not open:\n{server.output_shown()}")


def test_a_watcher_that_comes_back_sees_the_end(serve: Serve) -> None:
    """A raw SSE client whose connection was cut resumes at its offset, gets the end, and no text twice."""
    server = serve(**LONG)
    assert say(server, "s", "hello") == 202
    seen: Chunks = []
    offset = "-1"
    with watching(server, "s") as read:
        for held, reached in batches(read):
            seen, offset = seen + held, reached
            if kinds(seen).count("TEXT_MESSAGE_CONTENT") > 5 and server.alive:
                server.kill()
    server.start()
    with watching(server, "s", offset) as read:
        for held, _ in batches(read):
            seen += held
            if "RUN_ERROR" in kinds(held):
                break
    assert seen == read_log(server, "s")
    (end,) = check_runs(seen)
    assert end["code"] == "interrupted"


def test_queued_turns_end_too(serve: Serve) -> None:
    """Acknowledged turns that waited get their messages in the log, and each has an end."""
    server = serve(**LONG)
    assert say(server, "s", "one", "u1") == 202
    until(server, "s", has("TEXT_MESSAGE_CONTENT"))
    assert [say(server, "s", text, text) for text in ("two", "three")] == [202, 202]
    server.kill()
    server.start()
    chunks = read_log(server, "s")
    assert [end["code"] for end in check_runs(chunks)] == ["interrupted"] * 3
    queued = [chunk["value"]["runId"] for chunk in chunks if chunk["type"] == "CUSTOM"]
    assert [end["runId"] for end in check_runs(chunks)][1:] == queued
    users = [message["id"] for message in fold(chunks) if message["role"] == "user"]
    assert users == ["u1", "two", "three"]
    check_readers(server, "s", chunks)
    server.restart()
    assert read_log(server, "s") == chunks


# Killed by itself, at a point of the log.


@pytest.fixture
def dying(tmp_path: Path, processes: list[Process]) -> Dying:
    return Dying(tmp_path / "dying", processes)


class Dying:
    """
    Several lives of one server on one file. Each may die at another point. Mutable state: the process of the last life.
    """

    def __init__(self, folder: Path, processes: list[Process]) -> None:
        self.folder = folder
        self.processes = processes

    def start(self, die_at: str = "", die: str = "after", *, wait: bool = True) -> Process:
        command = (
            sys.executable,
            "-m",
            "uvicorn",
            "tests.sessions.dying:app",
            "--port",
            "{port}",
            "--log-level",
            "warning",
        )
        settings = {"DURABLE_CHAT_MODEL": "demo", "DURABLE_CHAT_DEMO_DELAY_MS": "5", "DIE_AT": die_at, "DIE": die}
        process = Process(command, self.folder, {**settings, "PYTHONPATH": str(ROOT)})
        process.ready_path = "/readyz"
        self.processes.append(process)
        process.start(wait=wait)
        return process

    def die(self, process: Process) -> None:
        assert process.wait() == -9


POINTS = {
    "before the echo": ('"role":"user"', "before", 0),
    "after the echo": ('"role":"user"', "after", 1),
    "before the start": ("RUN_STARTED", "before", 1),
    "before the first token": ("RUN_STARTED", "after", 1),
    "amid the arguments of a tool": ("TOOL_CALL_ARGS", "after", 1),
    "before a tool's result": ("TOOL_CALL_RESULT", "before", 1),
    "amid the text": ("TEXT_MESSAGE_CONTENT", "after", 1),
    "before the end": ("RUN_FINISHED", "before", 1),
}


@pytest.mark.parametrize("point", POINTS)
def test_killed_at(dying: Dying, point: str) -> None:
    """
    Wherever in a turn the process dies, a turn that has begun has one end, and a turn that has not begun does not
    exist.
    """
    die_at, die, ends = POINTS[point]
    process = dying.start(die_at, die)
    with pytest.raises((OSError, http.client.HTTPException)):
        say(process, "s", "use a tool", query="&mode=await")
    dying.die(process)
    process = dying.start()
    chunks = read_log(process, "s")
    assert [end["code"] for end in check_runs(chunks)] == ["interrupted"] * ends
    check_readers(process, "s", chunks)
    assert say(process, "s", "use a tool", query="&mode=await") == 200
    chunks = read_log(process, "s")
    assert check_runs(chunks)[-1]["type"] == "RUN_FINISHED"
    check_readers(process, "s", chunks)
    assert [message["id"] for message in fold(chunks) if message["role"] == "user"] == ["u1"]


def test_killed_after_the_end(dying: Dying) -> None:
    """A run whose terminal chunk was written is finished, even if no client was told."""
    process = dying.start("RUN_FINISHED")
    with pytest.raises((OSError, http.client.HTTPException)):
        say(process, "s", "hello", query="&mode=await")
    dying.die(process)
    process = dying.start()
    (end,) = check_runs(read_log(process, "s"))
    assert end["type"] == "RUN_FINISHED"


def test_killed_while_recovering(dying: Dying) -> None:
    """When recovery is killed at each of its writes in turn, nothing is added twice."""
    process = dying.start("TOOL_CALL_ARGS")
    with pytest.raises((OSError, http.client.HTTPException)):
        say(process, "s", "use a tool", query="&mode=await")
    dying.die(process)
    for die_at, die in (
        ('"epoch":2', "before"),
        ('"epoch":2', "after"),
        ("interrupted", "before"),
        ("interrupted", "after"),
    ):
        process = dying.start(die_at, die, wait=False)
        dying.die(process)
    process = dying.start()
    chunks = read_log(process, "s")
    (end,) = check_runs(chunks)
    assert end["code"] == "interrupted"
    assert kinds(chunks).count("TOOL_CALL_RESULT") == 1
    check_readers(process, "s", chunks)
