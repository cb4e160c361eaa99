"""The memory budget for many large bodies at once, and the responses to requests over it."""

from __future__ import annotations

import json
import socket
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from durable_chat.errors import Unavailable
from durable_chat.http.bodies import BodyBudget
from tests.conftest import Serve
from tests.http.test_auth import ask
from tests.servers import Process, Server

MIB = 1 << 20
CLIENTS = 60
WAIT_S = 60.0
TURN = b'{"messages": [{"id": "m", "role": "user", "parts": [{"type": "text", "content": "Hi"}]}]}'

GROWTH_MAX_BYTES = 3 * 256 * MIB
"""Of the server, at the most: what came, what it is put together to, and what is made of it."""
ADDRESS_SPACE_KIB = 1_700_000
"""For `ulimit -v`: what a server with its threads has mapped, and room for twice a budget of 256 MiB."""


def peak_of(server: Process) -> int:
    lines = Path(f"/proc/{server.pid}/status").read_text().split("\n")
    (line,) = [line for line in lines if line.startswith("VmHWM")]
    return 1024 * int(line.split()[1])


def begin(server: Process, path: str, size: int, content_type: str) -> tuple[socket.socket, bytes]:
    """Send the head of a request with a Content-Length and `Expect: 100-continue`. Return the answer to it."""
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=WAIT_S)
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {content_type}\r\nContent-Length: {size}\r\n"
    connection.sendall(f"{head}Expect: 100-continue\r\n\r\n".encode())
    return connection, said_by(connection)


def said_by(connection: socket.socket) -> bytes:
    """Return one response, with its body if it has one."""
    answer = b""
    while not answer.endswith(b"\r\n\r\n" if answer.startswith(b"HTTP/1.1 1") else b"}"):
        part = connection.recv(1 << 16)
        assert part, "the server is gone"
        answer += part
    return answer


@pytest.mark.parametrize(
    ("path", "body", "size", "content_type"),
    [
        ("/api/chat?id=s{n}", TURN, 31 * MIB, "application/json"),
        ("/v1/stream/s", b"", 15 * MIB, "application/octet-stream"),
    ],
)
def test_sixty_large_bodies_at_once(
    tmp_path: Path, processes: list[Process], path: str, body: bytes, size: int, content_type: str
) -> None:
    """
    The server reads as many bodies as fit the budget, refuses the others before reading them, and accepts their
    retries.
    """
    command = ("bash", "-c", f'ulimit -v {ADDRESS_SPACE_KIB}; exec "$0" "$@"', sys.executable, "-m", "durable_chat")
    server = Server(tmp_path / "server", {"DURABLE_CHAT_MODEL": "demo"}, command=command)
    processes.append(server)
    server.start()
    assert ask(server, "PUT", "/v1/stream/s", {"Content-Type": "application/octet-stream"})[0] == 201
    before = peak_of(server)
    fits = 256 * MIB // size
    with ExitStack() as stack:
        taken, refused = [], 0
        for n in range(CLIENTS):
            connection, answer = begin(server, path.format(n=n), size, content_type)
            stack.enter_context(connection)
            if answer.startswith(b"HTTP/1.1 100 "):
                connection.sendall(body.ljust(size - 1))
                taken.append(connection)
            else:
                assert answer.startswith(b"HTTP/1.1 503 ") and b"retry-after: " in answer.lower(), answer
                refused += 1
        assert (len(taken), refused) == (fits, CLIENTS - fits)
        assert ask(server, "GET", "/healthz")[0] == 200
        for connection in taken:
            connection.sendall(b" ")
        for connection in taken:
            assert connection.recv(1 << 16).split()[1] in (b"202", b"204")
        for n in range(fits, fits + 2):
            connection, answer = begin(server, path.format(n=n), size, content_type)
            stack.enter_context(connection)
            assert answer.startswith(b"HTTP/1.1 100 ")
            connection.sendall(body.ljust(size))
            assert connection.recv(1 << 16).split()[1] in (b"202", b"204")
    growth = peak_of(server) - before
    sys.stdout.write(f"{CLIENTS} bodies of {size // MIB} MiB at once: {growth / MIB:.0f} MiB more at the most\n")
    assert growth < GROWTH_MAX_BYTES


def test_a_body_of_unknown_length_grows_into_the_budget(serve: Serve) -> None:
    """A chunked body counts as it arrives, and is refused when the budget left by other requests is used up."""
    server = serve(DURABLE_CHAT_BODIES_MAX_BYTES=str(MIB))
    assert ask(server, "PUT", "/v1/stream/s", {"Content-Type": "text/plain"})[0] == 201
    first, answer = begin(server, "/v1/stream/s", MIB - 10, "text/plain")
    with first, socket.create_connection(("127.0.0.1", server.port), timeout=WAIT_S) as second:
        assert answer.startswith(b"HTTP/1.1 100 ")
        head = b"POST /v1/stream/s HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n"
        second.sendall(head + b"%x\r\n%b\r\n" % (200, b"x" * 200))
        said = said_by(second)
        assert said.startswith(b"HTTP/1.1 503 ") and b"too_many_bodies" in said
        first.sendall(b"x" * (MIB - 10))
        assert first.recv(1 << 16).startswith(b"HTTP/1.1 204 ")
    # Alone, so the budget is free.
    assert ask(server, "POST", "/v1/stream/s", {"Content-Type": "text/plain"}, b"x" * 3 * MIB)[0] == 204


@pytest.mark.parametrize("leave", ["refused", "left", "invalid"])
def test_what_was_taken_is_given_back(serve: Serve, leave: str) -> None:
    """However a request ends, its part of the budget is free again."""
    server = serve(DURABLE_CHAT_BODIES_MAX_BYTES=str(MIB))
    json_type = "application/json"
    for _ in range(3):
        deadline_s = time.monotonic() + WAIT_S
        connection, answer = begin(server, "/api/chat?id=a", MIB - 10, json_type)
        while (
            answer.startswith(b"HTTP/1.1 503 ") and time.monotonic() < deadline_s
        ):  # the server has not yet noticed the disconnect
            connection.close()
            time.sleep(0.05)
            connection, answer = begin(server, "/api/chat?id=a", MIB - 10, json_type)
        assert answer.startswith(b"HTTP/1.1 100 ")
        with connection:
            if leave == "invalid":
                connection.sendall(b"[".ljust(MIB - 10))
                assert connection.recv(1 << 16).startswith(b"HTTP/1.1 400 ")
            elif leave == "refused":
                other, said = begin(server, "/api/chat?id=b", 100_000, json_type)
                with other:
                    assert json.loads(said.partition(b"\r\n\r\n")[2])["code"] == "too_many_bodies"


def test_the_budget_counts() -> None:
    """Each body counts once, by its largest size, and only while it is held."""
    budget = BodyBudget(100)
    with budget.hold() as one, budget.hold() as two:
        one.grow(60)
        one.grow(30)
        two.grow(40)
        with pytest.raises(Unavailable) as refused:
            two.grow(41)
        assert refused.value.code == "too_many_bodies"
        assert budget.held_bytes == 100
    assert budget.held_bytes == 0
    with budget.hold() as alone:
        alone.grow(1000)
