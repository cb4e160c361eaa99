"""The application from start to shutdown: standalone, mounted, and stopped."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from starlette.types import Message, Scope

from durable_chat.app import DurableChat
from durable_chat.config.settings import Settings
from durable_chat.errors import InvalidRequest, StartError
from durable_chat.http.tokens import verify
from durable_chat.models.base import Turn
from tests.conftest import Serve
from tests.servers import Process, Server

MOUNTED = """
from contextlib import asynccontextmanager
from fastapi import FastAPI
from durable_chat.app import DurableChat

chat = DurableChat("sqlite:///chat.db"{options})

@chat.model
async def answer(turn):
    yield "you said " + turn.messages[-1]["parts"][0]["content"]

@asynccontextmanager
async def lifespan(app):
    async with chat.lifespan(app):
        app.state.note = "kept"
        yield

app = FastAPI(lifespan=lifespan)

@app.get("/own")
async def own():
    return {{"note": app.state.note}}

app.mount("{path}", chat.app)
"""


def uvicorn_process(folder: Path, processes: list[Process], code: str, name: str = "app:app", **env: str) -> Process:
    folder.mkdir()
    (folder / "app.py").write_text(code)
    command = (sys.executable, "-m", "uvicorn", name, "--app-dir", ".", "--port", "{port}", "--log-level", "warning")
    process = Process(command, folder, {"DURABLE_CHAT_MODEL": "demo", **env})
    # Any response means that it is up.
    process.is_ready = lambda status: status > 0  # type: ignore[method-assign]
    processes.append(process)
    process.start()
    return process


def ask(
    process: Process, method: str, path: str, body: object = None, headers: dict[str, str] | None = None
) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", process.port, timeout=20)
    try:
        sent = None if body is None else json.dumps(body)
        connection.request(method, path, sent, {"Content-Type": "application/json", **(headers or {})})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def said(text: str) -> dict[str, Any]:
    return {"messages": [{"id": "m1", "role": "user", "parts": [{"type": "text", "content": text}]}]}


@contextmanager
def following(process: Process, path: str) -> Iterator[http.client.HTTPResponse]:
    """Open a live read and wait until its first event has begun."""
    connection = http.client.HTTPConnection("127.0.0.1", process.port, timeout=20)
    with closing(connection):
        connection.request("GET", path)
        with connection.getresponse() as answer:
            assert answer.status == 200
            assert answer.readline() == b"event: control\n"
            yield answer


# Mounted.


@pytest.mark.parametrize("path", ["/", "/deep/chat"])
def test_mounted(tmp_path: Path, processes: list[Process], path: str) -> None:
    """In an application, at its root or below a path, the chat works beside the application's own routes."""
    process = uvicorn_process(tmp_path / "app", processes, MOUNTED.format(path=path, options=""))
    base = path.rstrip("/")
    assert ask(process, "GET", "/own") == (200, b'{"note":"kept"}')
    assert ask(process, "POST", f"{base}/api/chat?id=a&mode=await", said("hello"))[0] == 200
    snapshot = json.loads(ask(process, "GET", f"{base}/api/chat-snapshot?id=a")[1])
    assert [message["parts"][0]["content"] for message in snapshot["messages"]] == ["hello", "you said hello"]
    for address in ("/", "/durable-chat.js", "/readyz"):
        assert ask(process, "GET", f"{base}{address}")[0] == 200


def test_mounted_leaves_the_protocol_out(tmp_path: Path, processes: list[Process]) -> None:
    """A mounted chat does not serve the log on the protocol's routes, and with `page=False` it serves no page."""
    process = uvicorn_process(tmp_path / "app", processes, MOUNTED.format(path="/", options=", page=False"))
    status, body = ask(process, "GET", "/v1/stream/chat-a")
    assert (status, json.loads(body)["code"]) == (404, "not_found")
    assert ask(process, "GET", "/")[0] == 404
    assert ask(process, "GET", "/durable-chat.js")[0] == 200


@pytest.mark.parametrize(("options", "env"), [(", protocol=True", {}), ("", {"DS_SECRET": "s3cret"})])
def test_mounted_with_the_protocol(tmp_path: Path, processes: list[Process], options: str, env: dict[str, str]) -> None:
    """With the secret, or if enabled, a mounted chat serves the protocol's routes, also below a path."""
    process = uvicorn_process(tmp_path / "app", processes, MOUNTED.format(path="/x", options=options), **env)
    headers = {"Authorization": "Bearer s3cret"}
    assert ask(process, "PUT", "/x/v1/stream/a", headers=headers)[0] == 201
    assert ask(process, "GET", "/x/streams/a", headers=headers)[0] == 200


def test_chat_is_an_asgi_app(tmp_path: Path, processes: list[Process]) -> None:
    """`uvicorn module:chat.app` serves the chat without further setup."""
    code = "from durable_chat.app import DurableChat\nchat = DurableChat('memory://')\n"
    process = uvicorn_process(tmp_path / "app", processes, code, "app:chat.app")
    assert ask(process, "POST", "/api/chat?id=a", said("hello"))[0] == 202


def test_lifespan_says_why(tmp_path: Path, processes: list[Process]) -> None:
    """Without `serve`, an error at start is still one sentence."""
    folder = tmp_path / "app"
    folder.mkdir()
    (folder / "app.py").write_text(
        "from durable_chat.app import DurableChat\nchat = DurableChat('sqlite:////no/where')\n"
    )
    process = Process((sys.executable, "-m", "uvicorn", "app:chat.app", "--port", "{port}"), folder, {})
    processes.append(process)
    process.start(wait=False)
    assert process.wait() == 3
    assert "/no/where" in process.output
    assert "Traceback" not in process.output


def test_lifespan_not_entered(tmp_path: Path, processes: list[Process]) -> None:
    """If its lifespan was not entered, the chat reports that."""
    code = MOUNTED.format(path="/", options="").replace("FastAPI(lifespan=lifespan)", "FastAPI()")
    process = uvicorn_process(tmp_path / "app", processes, code)
    for method, path in (("POST", "/api/chat?id=a"), ("GET", "/readyz"), ("GET", "/v1/stream/a")):
        status, body = ask(process, method, path, said("hello") if method == "POST" else None)
        assert (status, json.loads(body)["code"]) == (503, "not_open")
    assert ask(process, "GET", "/healthz")[0] == 200


async def test_lifespan_once() -> None:
    """A store is opened once. When the lifespan is entered again after its end, the chat works again."""
    chat = DurableChat("memory://", settings=Settings(model="demo"))
    async with chat.lifespan():
        with pytest.raises(StartError):
            async with chat.lifespan():
                raise AssertionError("never entered")
    async with chat.lifespan():
        assert await request(chat, "/readyz") == 200
    assert await request(chat, "/readyz") == 503


async def test_model_by_name() -> None:
    """A model may be given by name. An unknown name is an error at start."""
    async with DurableChat("memory://", settings=Settings(), model="demo").lifespan():
        pass
    with pytest.raises(StartError):
        async with DurableChat("memory://", settings=Settings(), model="nobody:gpt-17").lifespan():
            raise AssertionError("never entered")


def test_tokens_in_code() -> None:
    """An application issues tokens in code. Without a secret, or for an invalid session, it gets an error."""
    secret = "t" * 32
    chat = DurableChat("memory://", settings=Settings(token_secret=secret))
    found = verify(secret, chat.token("a", can=["read", "stop"], ttl_s=60), now_s=time.time())
    assert (found.session_id, sorted(found.can)) == ("a", ["read", "stop"])
    with pytest.raises(InvalidRequest):
        chat.token("", can=["read"], ttl_s=60)
    with pytest.raises(StartError):
        DurableChat("memory://", settings=Settings()).token("a", can=["read"], ttl_s=60)


@pytest.mark.parametrize("allowed", [True, False])
async def test_authorize(allowed: bool) -> None:
    """The chat calls the application's authorization hook."""
    chat = DurableChat("memory://", settings=Settings(model="demo"), authorize=lambda *_: allowed)
    async with chat.lifespan():
        assert await request(chat, "/api/chat-snapshot", b"id=a") == (200 if allowed else 403)


async def request(chat: DurableChat, path: str, query: bytes = b"") -> int:
    """Return the status of a GET, by calling the ASGI application directly."""
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b""}

    async def send(message: Message) -> None:
        sent.append(message)

    scope: Scope = {"type": "http", "method": "GET", "path": path, "query_string": query, "headers": [], "client": None}
    await chat.app(scope, receive, send)
    return int(sent[0]["status"])


async def test_websockets_are_refused() -> None:
    """A WebSocket connection is refused at once."""
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    async def send(message: Message) -> None:
        sent.append(message)

    await DurableChat("memory://", settings=Settings()).app({"type": "websocket", "path": "/"}, receive, send)
    assert [message["type"] for message in sent] == ["websocket.close"]


# Errors.


def test_routing_errors_have_one_shape(server: Server) -> None:
    """Every refusal has the same shape of JSON body."""
    cases = [
        ("GET", "/nothing", 404, "not_found"),
        ("POST", "/healthz", 405, "method_not_allowed"),
        ("GET", "/api/nothing", 404, "not_found"),
        ("PUT", "/api/chat", 405, "method_not_allowed"),
        ("PATCH", "/v1/stream/a", 405, "method_not_allowed"),
        ("GET", "/v1/stream/missing", 404, "not_found"),
        ("GET", "/v1/stream/a%00b", 400, "bad_path"),
    ]
    for method, path, status, code in cases:
        answered, body = ask(server, method, path)
        error = json.loads(body)
        assert (answered, error["code"], set(error)) == (status, code, {"error", "code"}), path


TRICKS = (
    "/../README.md",
    "/static/../pages.py",
    "/static/..%2fpages.py",
    "/static/%2e%2e/pages.py",
    "/static/%252e%252e%252fpages.py",
    "/static/index.html%00.js",
    "/static//index.html",
    "//v1/stream/secret",
    "/v1/stream/x/../secret",
    "/v1/stream/x/%2e%2e/secret",
    "/v1/stream/%2e%2e%2fsecret",
    "/v1/stream/sec%00ret",
    "/v1/stream//secret",
    "/v1/stream/./secret",
    "/api/../v1/stream/secret",
    "/api/%2e%2e/v1/stream/secret",
    "/%761/stream/secret",
    "/v1%2fstream/secret",
)


def test_path_tricks(server: Server) -> None:
    """No spelling of a path reaches a file, or a stream that it does not name plainly."""
    assert ask(server, "PUT", "/v1/stream/secret", ["hunter2"])[0] == 201
    for path in TRICKS:
        status, body = ask(server, "GET", path)
        assert status in (400, 404), path
        assert b"hunter2" not in body, path


def test_bug_is_answered_without_details(tmp_path: Path, processes: list[Process]) -> None:
    """A bug gets 500 without its text, which is in the log."""
    code = MOUNTED.format(path="/", options="") + (
        "import durable_chat.sessions.running.runs\n"
        "def stop(*_):\n    raise RuntimeError('the password is hunter2')\n"
        "durable_chat.sessions.running.runs.Runs.stop = stop\n"
    )
    process = uvicorn_process(tmp_path / "app", processes, code)
    status, body = ask(process, "POST", "/api/chat-stop?id=a")
    assert (status, json.loads(body)["code"]) == (500, "internal")
    assert b"hunter2" not in body
    assert "hunter2" in process.output


# A remote store.


def test_remote_store(serve: Serve) -> None:
    """On a remote store the chat works the same, and the protocol's routes are left to the remote."""
    remote = serve(DURABLE_CHAT_STORE="memory://", DS_SECRET="s3cret")
    env = {"ELECTRIC_URL": remote.url, "DS_SERVICE_ID": "svc-1", "DS_SECRET": "s3cret"}
    server = serve(**env)
    assert ask(server, "POST", "/api/chat?id=a&mode=await", said("hello"))[0] == 200
    snapshot = json.loads(ask(server, "GET", "/api/chat-snapshot?id=a")[1])
    assert [message["role"] for message in snapshot["messages"]] == ["user", "assistant"]
    assert ask(server, "GET", "/v1/stream/svc-1/chat-a", headers={"Authorization": "Bearer s3cret"})[0] == 404
    assert ask(remote, "GET", "/v1/stream/svc-1/chat-a", headers={"Authorization": "Bearer s3cret"})[0] == 200
    assert not list(server.folder.glob("*.db"))


# Shutdown.


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_live_readers_do_not_hold_the_server(server: Server, number: signal.Signals) -> None:
    """At shutdown, live responses end cleanly and at once, and the exit code is 0."""
    paths = [f"/api/chat-stream?id={id_}&offset=now&live=sse" for id_ in ("a", "a", "b")]
    with ExitStack() as stack:
        readers = [stack.enter_context(following(server, path)) for path in paths]
        os.kill(server.pid, number)
        # The grace period and its margin are longer than this wait, so a server that waited for readers would fail.
        assert server.wait() == 0
        for reader in readers:
            reader.read()
    assert "Traceback" not in server.output


def test_plain_uvicorn_ends_too(tmp_path: Path, processes: list[Process]) -> None:
    """The same holds under plain uvicorn, which gets the signal first and would wait for the readers."""
    process = uvicorn_process(tmp_path / "app", processes, MOUNTED.format(path="/", options=""))
    with following(process, "/api/chat-stream?id=a&offset=now&live=sse") as reader:
        process.terminate()
        reader.read()
    assert "Traceback" not in process.output


def test_running_answer_gets_its_grace(serve: Serve) -> None:
    """An answer that ends within the grace period is written completely before the server exits."""
    server = serve(DURABLE_CHAT_DEMO_CHUNKS="100", DURABLE_CHAT_DEMO_DELAY_MS="5")
    assert ask(server, "POST", "/api/chat?id=a", said("hello"))[0] == 202
    assert server.terminate() == 0
    server.start()
    chunks = json.loads(ask(server, "GET", "/v1/stream/chat-a")[1])
    assert chunks[-1]["type"] == "RUN_FINISHED"


def test_answer_beyond_the_grace_is_interrupted(serve: Serve) -> None:
    """An answer that exceeds the grace period ends with an error that names the reason, and keeps its text so far."""
    server = serve(DURABLE_CHAT_DEMO_CHUNKS="100000", DURABLE_CHAT_GRACE_S="0")
    with following(server, "/api/chat-stream?id=a&offset=now&live=sse") as reader:
        assert ask(server, "POST", "/api/chat?id=a", said("hello"))[0] == 202
        while b"TEXT_MESSAGE_CONTENT" not in reader.readline():
            assert not reader.isclosed()
        assert server.terminate() == 0
    server.start()
    chunks = json.loads(ask(server, "GET", "/v1/stream/chat-a")[1])
    assert (chunks[-1]["type"], chunks[-1]["code"]) == ("RUN_ERROR", "interrupted")


def test_second_signal_ends_the_grace(serve: Serve) -> None:
    """A second signal ends the answers at once, each with its own end in the log."""
    server = serve(DURABLE_CHAT_DEMO_CHUNKS="100000", DURABLE_CHAT_GRACE_S="600")
    with following(server, "/api/chat-stream?id=a&offset=now&live=sse") as reader:
        assert ask(server, "POST", "/api/chat?id=a", said("hello"))[0] == 202
        os.kill(server.pid, signal.SIGTERM)
        reader.read()
    os.kill(server.pid, signal.SIGTERM)
    assert server.wait() == 0
    server.start()
    chunks = json.loads(ask(server, "GET", "/v1/stream/chat-a")[1])
    assert (chunks[-1]["type"], chunks[-1]["code"]) == ("RUN_ERROR", "interrupted")


async def test_signal_handlers_are_given_back() -> None:
    """After the lifespan, the process has its previous signal handlers."""

    async def model(turn: Turn) -> AsyncIterator[str]:
        yield turn.session_id

    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    chat = DurableChat("memory://", settings=Settings(), model=model)
    async with chat.lifespan():
        assert signal.getsignal(signal.SIGTERM) is not before[0]
        await asyncio.sleep(0)
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
