"""The library functions, on an application's own session and on a server behind a socket."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from typing import Any
from urllib.parse import unquote

import httpx
import msgspec
import pytest
from starlette.requests import Request
from starlette.responses import Response

from durable_chat.api.responses import (
    drain,
    durable_stream_proxy,
    ensure_durable_chat_session_stream,
    materialize_snapshot_from_durable_stream,
    to_durable_chat_session_response,
    to_durable_stream_response,
)
from durable_chat.api.targets import ChatSession, DurableStreamTarget, split_stream_url
from durable_chat.app import create_app
from durable_chat.config.settings import Settings
from durable_chat.errors import NotFound
from durable_chat.http.reads import LiveReads
from durable_chat.http.upstream.wire import UpstreamWire
from durable_chat.protocol.offsets import ZERO
from durable_chat.sessions.running.runs import Runs
from durable_chat.sessions.sessions import session_path
from durable_chat.store.opening import open_store
from durable_chat.transcripts.attachments import hash_of
from tests.sessions.serving import ANSWER_MAX_S, listening, types, user

SECRET = "a-secret-of-the-server-1"


@asynccontextmanager
async def a_session() -> AsyncIterator[ChatSession]:
    """A session of the application itself."""
    settings = Settings(store="memory://")
    store = await open_store(settings.store)
    runs = Runs(store, settings)
    yield ChatSession("s", runs, store, settings, LiveReads(10))
    await runs.drain(0)
    await store.close()


@asynccontextmanager
async def a_target() -> AsyncIterator[DurableStreamTarget]:
    """A stream on another server that requires a secret."""
    chat = create_app(Settings(store="memory://", secret=SECRET))
    async with chat.lifespan(), listening(chat.app) as address:
        headers = {"Authorization": f"Bearer {SECRET}"}
        yield DurableStreamTarget(f"{address}/v1/stream/service/chat-s", "/api/chat-stream?id=s", headers)
        await drain(0)


@asynccontextmanager
async def an_npm_target(url: str) -> AsyncIterator[DurableStreamTarget]:
    """A stream of the reference server, whose offsets differ from ours."""
    yield DurableStreamTarget(f"{url}/v1/stream/service/chat-s", "/api/chat-stream?id=s")
    await drain(0)


Target = DurableStreamTarget | ChatSession
TARGETS: dict[str, Callable[[], AbstractAsyncContextManager[Target]]] = {"a session": a_session, "a server": a_target}


@pytest.fixture(params=[*TARGETS, "npm's server"])
async def target(request: pytest.FixtureRequest) -> AsyncIterator[Target]:
    if request.param in TARGETS:
        making = TARGETS[request.param]()
    else:
        npm = request.getfixturevalue("serve_npm")(durable=False)
        making = an_npm_target(npm.url)
    async with making as made:
        yield made


async def answer(*pieces: str, error: Exception | None = None) -> AsyncIterator[str]:
    for piece in pieces:
        yield piece
    if error is not None:
        raise error


async def log_of(target: Target) -> list[Any]:
    """Return the stream's messages."""
    if isinstance(target, ChatSession):
        reader = await target.store.log.read(session_path(target.session_id), "-1")
        data = (await reader.next()).data
        await reader.aclose()
        return list(msgspec.json.decode(b"[" + data + b"]"))
    async with httpx.AsyncClient(headers=target.headers) as client:
        response = await client.get(target.write_url)
        assert response.status_code == 200, response.text
        return list(response.json())


async def snapshot_texts(target: Target) -> list[str]:
    snapshot = await materialize_snapshot_from_durable_stream(target)
    return ["".join(part.get("content", "") for part in message["parts"]) for message in snapshot.messages]


async def test_an_answer_is_written_and_awaited(target: Target) -> None:
    """With await, the 200 comes when the log has everything: the message first, then one complete run."""
    response = await to_durable_chat_session_response(
        stream=target, new_messages=[user("hi")], response_stream=answer("Hel", "lo."), mode="await"
    )
    assert (response.status_code, response.body) == (200, b"")
    found = types(await log_of(target))
    assert found[:2] == ["MESSAGES_SNAPSHOT", "RUN_STARTED"]
    assert found[-1] == "RUN_FINISHED"
    assert await snapshot_texts(target) == ["hi", "Hello."]


@pytest.mark.parametrize("given", ["Hello.", ["Hel", "lo."], iter(["Hel", "lo."])], ids=["text", "list", "iterator"])
async def test_an_answer_may_be_whatever_a_model_gives(given: Any) -> None:
    """Text, a list and a plain iterator are valid answers, and valid sources of a stream."""
    async with a_session() as target:
        response = await to_durable_chat_session_response(
            stream=target, new_messages=[user("hi")], response_stream=given, mode="await"
        )
        assert response.status_code == 200
        assert await snapshot_texts(target) == ["hi", "Hello."]
    async with a_target() as remote:
        assert (await to_durable_stream_response(["a", "b"], stream=remote, mode="await")).status_code == 200
        assert await log_of(remote) == ["a", "b"]


async def test_an_answer_goes_on_in_the_background(target: Target) -> None:
    """The 202 comes at once, with the message in the log. The rest of the answer is written in the background."""
    go, done = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[str]:
        await go.wait()
        yield "Hello."
        done.set()

    response = await to_durable_chat_session_response(stream=target, new_messages=[user("hi")], response_stream=slow())
    assert response.status_code == 202
    assert types(await log_of(target))[:1] == ["MESSAGES_SNAPSHOT"]
    go.set()
    await asyncio.wait_for(done.wait(), ANSWER_MAX_S)
    if isinstance(target, ChatSession):
        await target.runs.drain(ANSWER_MAX_S)
    else:
        await drain(ANSWER_MAX_S)
    assert types(await log_of(target))[-1] == "RUN_FINISHED"


async def test_a_known_message_is_not_shown_again(target: Target) -> None:
    """The same message in two calls is in the session once, and its text is not doubled."""
    for _ in range(2):
        await to_durable_chat_session_response(
            stream=target, new_messages=[user("hi")], response_stream=answer("Hello."), mode="await"
        )
    assert await snapshot_texts(target) == ["hi", "Hello.", "Hello."]


async def test_a_failed_answer_ends_in_the_log(target: Target) -> None:
    """A source that raises gives 502 to a caller that awaits and RUN_ERROR to readers, without the exception's text."""
    response = await to_durable_chat_session_response(
        stream=target, new_messages=[user("hi")], response_stream=answer("Hel", error=OSError("secret")), mode="await"
    )
    assert response.status_code == 502
    last = (await log_of(target))[-1]
    assert (last["type"], last["code"]) == ("RUN_ERROR", "model_failed")
    assert "secret" not in last["message"]


async def test_a_session_is_created_once(target: Target) -> None:
    """Ensuring a session is idempotent, and its log is empty."""
    await ensure_durable_chat_session_stream(target)
    await ensure_durable_chat_session_stream(target)
    assert await log_of(target) == []


async def test_a_session_that_does_not_exist_has_no_messages(target: Target) -> None:
    """A session that does not exist has no messages and the constant first offset."""
    snapshot = await materialize_snapshot_from_durable_stream(target)
    assert (snapshot.messages, snapshot.offset) == ([], "0" * 16 + "_" + "0" * 16)


async def test_the_proxy_reads_the_stream(target: Target) -> None:
    """A reader gets the log, and nothing that names its storage."""
    await to_durable_chat_session_response(
        stream=target, new_messages=[user("hi")], response_stream=answer("Hello."), mode="await"
    )

    async def app(scope: Any, receive: Any, send: Any) -> None:
        response: Response = await durable_stream_proxy(Request(scope, receive), stream=target)
        await response(scope, receive, send)

    async with listening(app) as address, httpx.AsyncClient(base_url=address) as client:
        response = await client.get("/?offset=-1")
        if isinstance(target, ChatSession):  # as /api/chat-stream returns it
            assert types(response.json()) == ["MESSAGES_SNAPSHOT"]
            response = await client.get("/", params={"offset": ZERO})
        assert response.json() == await log_of(target)
        assert response.headers["cache-control"] == "private, no-cache"
        assert "location" not in response.headers
        assert (await client.get("/?offset=bad")).status_code == 400


async def test_a_source_gets_a_stream_of_its_own() -> None:
    """Each item is a message, the stream is closed at the end, and the response gives the address for readers only."""
    async with a_target() as target:

        async def source() -> AsyncIterator[Any]:
            yield {"type": "start"}
            yield {"type": "finish"}

        response = await to_durable_stream_response(source(), stream=target, mode="await")
        assert response.status_code == 200
        body = msgspec.json.decode(response.body)
        assert body["streamUrl"] == response.headers["location"] == "/api/chat-stream?id=s"
        assert await log_of(target) == [{"type": "start"}, {"type": "finish"}]
        async with httpx.AsyncClient(headers=target.headers) as client:
            head = await client.head(target.write_url)
        assert head.headers["stream-closed"] == "true"
        assert head.headers["stream-next-offset"] == body["finalOffset"]


async def test_a_source_that_fails_leaves_an_end() -> None:
    """When a source fails, readers get an error and then the end of the stream. The 201 was sent before."""
    async with a_target() as target:
        response = await to_durable_stream_response(answer("a", error=OSError()), stream=target)
        assert response.status_code == 201
        await drain(ANSWER_MAX_S)
        found = await log_of(target)
        assert found[0] == "a"
        assert (found[1]["type"], found[1]["code"]) == ("RUN_ERROR", "source_failed")


async def test_an_address_guarded_by_a_secret_is_not_given_away() -> None:
    """Without a read_url, the response gives no address that a secret guards."""
    async with a_target() as target:
        guarded = DurableStreamTarget(target.write_url, None, target.headers)
        response = await to_durable_stream_response(answer("a"), stream=guarded)
        assert (response.status_code, "location" in response.headers) == (400, False)
        assert SECRET not in repr(target)


async def test_nothing_is_created_unless_it_may_be() -> None:
    """With create_if_missing off, a missing stream is an error and is not created."""
    async with a_target() as target:
        strict = DurableStreamTarget(target.write_url, None, target.headers, create_if_missing=False)
        with pytest.raises(NotFound):
            await ensure_durable_chat_session_stream(strict)
        response = await to_durable_chat_session_response(
            stream=strict, new_messages=[user("hi")], response_stream=answer("x")
        )
        assert response.status_code == 404


URLS = {
    "another scheme": "ftp://host/s",
    "a query": "http://host/s?token=1",
    "no stream": "http://host/",
    "no host": "http:///s",
    "no address": "chat-s",
    "a user and password": "http://me:pass-word@host/s",
    "a token as the user": "http://pass-word@host/s",
    "an encoded slash": "http://host/a%2Fb",
    "what is no text": "http://host/%FF",
    "a control character": "http://host/a%00b",
    "the folder above": "http://host/%2E%2E",
}


@pytest.mark.parametrize("url", URLS.values(), ids=URLS)
async def test_an_address_that_is_none_is_refused(url: str) -> None:
    """An invalid address gets 400, the response omits it because it may hold a secret, and no request is sent."""
    response = await to_durable_chat_session_response(
        stream=DurableStreamTarget(url), new_messages=[user("hi")], response_stream=answer("x")
    )
    assert response.status_code == 400
    assert b"pass-word" not in response.body


async def test_a_file_in_a_new_message(target: Target) -> None:
    """
    In a session of the chat, which serves files, a long file is stored beside the log; elsewhere it stays in the log.
    """
    data = bytes(100_000)
    source = {"type": "data", "value": base64.b64encode(data).decode(), "mimeType": "image/png"}
    message = {"id": "u1", "role": "user", "parts": [{"type": "image", "source": source}]}
    if isinstance(target, ChatSession):
        target = replace(target, root_path="/inner/")
    answered = await to_durable_chat_session_response(
        stream=target, new_messages=[message], response_stream=answer("x"), mode="await"
    )
    assert answered.status_code == 200
    shown = (await materialize_snapshot_from_durable_stream(target)).messages[0]["parts"][0]["source"]
    if isinstance(target, ChatSession):
        assert shown["value"] == f"/inner/api/chat-artifact?id=s&artifact={hash_of(data)}"
        assert await target.runs.sessions.artifacts.load(session_path("s"), hash_of(data)) == data
    else:
        assert shown == source


async def test_headers_that_are_none_are_refused() -> None:
    """A secret that does not fit a header is refused, and is not in the response."""
    target = DurableStreamTarget("http://host/s", "/read", {"Authorization": "Bearer pass\nword"})
    response = await to_durable_stream_response(answer("x"), stream=target)
    assert response.status_code == 400
    assert b"pass" not in response.body


@pytest.mark.parametrize("name", ["chat-a", "chat-a%2520b", "chat-%C3%A9", "chat-a%252Fb", "chat-a~b!"])
def test_a_streams_name_is_encoded_as_it_came(name: str) -> None:
    """The last segment is decoded once here and encoded once in requests, so that it names the same stream."""
    base, path = split_stream_url(f"https://host:8443/v1/stream/service/{name}")
    assert base == "https://host:8443/v1/stream/service"
    assert unquote(UpstreamWire(base, None).address(path)) == unquote(f"{base}/{name}")
