"""
Shutdown during answers: what is refused, what continues, and what the log has afterwards, with `serve` and without.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.servers import ROOT, Process, Server

PLAIN = """
from durable_chat import DurableChat

chat = DurableChat("sqlite:///chat.db", protocol=True)
app = chat.app
"""
UVICORN = (sys.executable, "-m", "uvicorn", "app:app", "--app-dir", ".", "--port", "{port}", "--log-level", "warning")
ENDLESS = {"DURABLE_CHAT_MODEL": "demo", "DURABLE_CHAT_DEMO_CHUNKS": "100000", "DURABLE_CHAT_DEMO_DELAY_MS": "10"}
TIMEOUT_S = 20.0

Start = Callable[..., Process]


@pytest.fixture(params=["serve", "uvicorn"])
def start(request: pytest.FixtureRequest, tmp_path: Path, processes: list[Process]) -> Start:
    """Start the server in one of the two ways. A second call uses the same file."""
    folder = tmp_path / "server"

    def start(**settings: str) -> Process:
        environment = {**ENDLESS, "DURABLE_CHAT_STORE": "sqlite:///chat.db", **settings}
        process: Process
        if request.param == "serve":
            process = Server(folder, environment)
        else:
            folder.mkdir(exist_ok=True)
            (folder / "app.py").write_text(PLAIN)
            process = Process(UVICORN, folder, {**environment, "PYTHONPATH": str(ROOT)})
            process.ready_path = "/readyz"
        processes.append(process)
        process.start()
        return process

    return start


def ask(process: Process, method: str, path: str, body: object = None) -> tuple[int, bytes, dict[str, str]]:
    connection = http.client.HTTPConnection("127.0.0.1", process.port, timeout=TIMEOUT_S)
    with closing(connection):
        sent = None if body is None else json.dumps(body)
        connection.request(method, path, sent, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.read(), {name.lower(): value for name, value in answer.getheaders()}


def said(text: str, message_id: str = "u1") -> dict[str, Any]:
    return {"messages": [{"id": message_id, "role": "user", "parts": [{"type": "text", "content": text}]}]}


@contextmanager
def following(process: Process, session: str) -> Iterator[http.client.HTTPResponse]:
    """Open a live read of an answer that has begun."""
    connection = http.client.HTTPConnection("127.0.0.1", process.port, timeout=TIMEOUT_S)
    with closing(connection):
        connection.request("GET", f"/api/chat-stream?id={session}&offset=-1&live=sse")
        answer = connection.getresponse()
        while b"TEXT_MESSAGE_CONTENT" not in (line := answer.readline()):
            assert line, "the read ended"
        yield answer


def read_ends(process: Process, session: str) -> list[dict[str, Any]]:
    chunks = json.loads(ask(process, "GET", f"/v1/stream/chat-{session}")[1])
    starts = [chunk["runId"] for chunk in chunks if chunk["type"] == "RUN_STARTED"]
    ends = [chunk for chunk in chunks if chunk["type"] in ("RUN_FINISHED", "RUN_ERROR")]
    assert [end["runId"] for end in ends] == starts
    return ends


def check_exit(process: Process, code: int) -> None:
    """Check the exit: `serve` exits with 0; uvicorn by itself raises the signal again."""
    assert code == (0 if isinstance(process, Server) else -signal.SIGTERM)
    assert "Traceback" not in process.output, process.output


REFUSED = (
    ("POST", "/api/chat?id=new", said("hello")),
    ("POST", "/api/chat?id=a", said("more", "u2")),
    ("GET", "/api/chat-stream?id=a&offset=-1&live=sse", None),
    ("GET", "/api/chat-stream?id=a&offset=-1&live=long-poll", None),
    ("GET", "/api/chat-stream?id=a", None),
    ("GET", "/api/chat-snapshot?id=a", None),
    ("GET", "/v1/stream/chat-a?offset=-1&live=sse", None),
    ("GET", "/readyz", None),
)


def test_the_port_stays_open_while_answers_get_their_grace(start: Start) -> None:
    """
    At shutdown SSE ends cleanly, once. New turns and reads get a response that tells them to retry, not a refused
    connection. A stop still works, and then the server exits at once.
    """
    process = start(DURABLE_CHAT_GRACE_S="600")
    assert ask(process, "POST", "/api/chat?id=a", said("hello"))[0] == 202
    with following(process, "a") as reader:
        os.kill(process.pid, signal.SIGTERM)
        reader.read()  # raises for an incomplete body
    for method, path, body in REFUSED:
        status, answer, headers = ask(process, method, path, body)
        assert (status, "retry-after" in headers) == (503, True), (path, answer)
    assert ask(process, "GET", "/healthz")[0] == 200
    status, answer, _ = ask(process, "POST", "/api/chat-stop?id=a")
    assert (status, len(json.loads(answer)["stopped"])) == (200, 1)
    check_exit(process, process.wait())
    process = start()
    (end,) = read_ends(process, "a")
    assert end["metadata"]["tanstack"]["stopped"]
    assert ask(process, "GET", "/v1/stream/chat-new")[0] == 404


def test_a_running_answer_is_continued_and_joined_during_a_shutdown(start: Start) -> None:
    """
    During the grace period, a TanStack client that lost its connection can reconnect and get the rest of the answer.
    """
    process = start(DURABLE_CHAT_GRACE_S="600")
    body = {**said("hello"), "threadId": "a", "runId": "r", "tools": [], "context": []}
    connection = http.client.HTTPConnection("127.0.0.1", process.port, timeout=TIMEOUT_S)
    with closing(connection):
        connection.request("POST", "/api/chat", json.dumps(body), {"content-type": "application/json"})
        answer = connection.getresponse()
        seen = ""
        while b"TEXT_MESSAGE_CONTENT" not in (line := answer.readline()):
            seen = line.decode().removeprefix("id: ").strip() if line.startswith(b"id: ") else seen
    with following(process, "a") as reader:
        os.kill(process.pid, signal.SIGTERM)
        reader.read()
    resuming = http.client.HTTPConnection("127.0.0.1", process.port, timeout=TIMEOUT_S)
    joining = http.client.HTTPConnection("127.0.0.1", process.port, timeout=TIMEOUT_S)
    with closing(resuming), closing(joining):
        headers = {"content-type": "application/json", "last-event-id": seen, "x-run-id": "r"}
        resuming.request("POST", "/api/chat", json.dumps(body), headers)
        joining.request("GET", "/api/chat?offset=-1&runId=r")
        answers = [resuming.getresponse(), joining.getresponse()]
        assert [each.status for each in answers] == [200, 200]
        assert ask(process, "POST", "/api/chat", body)[0] == 503
        assert ask(process, "POST", "/api/chat-stop?id=a")[0] == 200
        for each in answers:
            assert b"RUN_FINISHED" in each.read().splitlines()[-2]
    check_exit(process, process.wait())


def test_what_is_left_after_the_grace_is_interrupted(start: Start) -> None:
    """
    After the grace period, the running answer and the waiting turn get their ends in the log before the process
    exits.
    """
    process = start(DURABLE_CHAT_GRACE_S="0")
    assert ask(process, "POST", "/api/chat?id=a", said("hello"))[0] == 202
    with following(process, "a") as reader:
        assert ask(process, "POST", "/api/chat?id=a", said("more", "u2"))[0] == 202
        os.kill(process.pid, signal.SIGTERM)
        reader.read()
    check_exit(process, process.wait())
    process = start()
    assert [end["code"] for end in read_ends(process, "a")] == ["interrupted"] * 2
    assert not re.search(r"ended \d+ interrupted runs", process.output), "the next process had to do it"


def test_an_answer_that_fits_is_whole(start: Start) -> None:
    """An answer that ends in time is complete, and a caller with mode=await gets its response."""
    process = start(DURABLE_CHAT_GRACE_S="600", DURABLE_CHAT_DEMO_CHUNKS="100")
    connection = http.client.HTTPConnection("127.0.0.1", process.port, timeout=TIMEOUT_S)
    with closing(connection):
        body = json.dumps(said("hello"))
        connection.request("POST", "/api/chat?id=a&mode=await", body, {"Content-Type": "application/json"})
        with following(process, "a") as reader:
            os.kill(process.pid, signal.SIGTERM)
            reader.read()
        assert connection.getresponse().status == 200
    check_exit(process, process.wait())
    assert [end["type"] for end in read_ends(start(), "a")] == ["RUN_FINISHED"]


def test_told_twice(start: Start) -> None:
    """A second signal ends the answers at once, each with its own end in the log."""
    process = start(DURABLE_CHAT_GRACE_S="600")
    assert ask(process, "POST", "/api/chat?id=a", said("hello"))[0] == 202
    with following(process, "a") as reader:
        os.kill(process.pid, signal.SIGTERM)
        reader.read()
    os.kill(process.pid, signal.SIGTERM)
    check_exit(process, process.wait())
    assert [end["code"] for end in read_ends(start(), "a")] == ["interrupted"]


def test_nothing_to_wait_for(start: Start) -> None:
    """Without a running answer the server exits at once, even with open reads."""
    process = start(DURABLE_CHAT_GRACE_S="600")
    connection = http.client.HTTPConnection("127.0.0.1", process.port, timeout=TIMEOUT_S)
    with closing(connection):
        connection.request("GET", "/api/chat-stream?id=a&offset=-1&live=sse")
        answer = connection.getresponse()
        assert answer.readline()
        os.kill(process.pid, signal.SIGTERM)
        answer.read()
    check_exit(process, process.wait())
