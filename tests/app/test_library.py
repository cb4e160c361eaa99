"""The library functions in other applications: their refusals become responses, and a shutdown drains their writes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request
from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from durable_chat import (
    DurableChat,
    DurableChatError,
    DurableStreamTarget,
    Settings,
    answer_error,
    durable_stream_proxy,
    ensure_durable_chat_session_stream,
    materialize_snapshot_from_durable_stream,
    to_durable_chat_session_response,
    to_durable_stream_response,
)
from durable_chat.app import create_app
from tests.sessions.serving import listening, user


@asynccontextmanager
async def a_remote() -> AsyncIterator[str]:
    remote = create_app(Settings(store="memory://"))
    async with remote.lifespan(), listening(remote.app) as address:
        yield f"{address}/v1/stream"


async def ensure(request: Request) -> Response:
    """Return what an application's route gets, without error handling."""
    target = DurableStreamTarget(request.query_params["url"], create_if_missing=False)
    await ensure_durable_chat_session_stream(target)
    return Response(status_code=204)


async def materialize(request: Request) -> Response:
    snapshot = await materialize_snapshot_from_durable_stream(DurableStreamTarget(request.query_params["url"]))
    return JSONResponse({"messages": snapshot.messages})


async def follow(request: Request) -> Response:
    return await durable_stream_proxy(request, stream=DurableStreamTarget(request.query_params["url"]))


async def write(request: Request) -> Response:
    async def source() -> AsyncIterator[str]:
        yield "a"
        raise OSError("a secret")

    return await to_durable_stream_response(
        source(), stream=DurableStreamTarget(request.query_params["url"]), mode="await"
    )


HANDLERS = {"/ensure": ensure, "/materialize": materialize, "/follow": follow, "/write": write}


def fastapi_app() -> FastAPI | Starlette:
    app = FastAPI()
    for path, handler in HANDLERS.items():
        app.add_api_route(path, handler, response_model=None)
    return app


def starlette_app() -> FastAPI | Starlette:
    return Starlette(routes=[Route(path, handler) for path, handler in HANDLERS.items()])


@pytest.fixture(params=[fastapi_app, starlette_app])
def make(request: pytest.FixtureRequest) -> Callable[[], FastAPI | Starlette]:
    made: Callable[[], FastAPI | Starlette] = request.param
    return made


@asynccontextmanager
async def asking(app: Any) -> AsyncIterator[httpx.AsyncClient]:
    async with listening(app) as address, httpx.AsyncClient(base_url=address, timeout=20) as client:
        yield client


async def test_what_is_refused_has_its_status(make: Callable[[], FastAPI | Starlette]) -> None:
    """Without any setup, a refusal gets its own status instead of 500."""
    async with a_remote() as remote, asking(make()) as client:
        for path, url, status in (
            ("/ensure", f"{remote}/nothing", 404),
            ("/ensure", "ftp://host/s", 400),
            ("/materialize", "nowhere", 400),
            ("/materialize", "http://user:pass-word@host/s", 400),
            ("/follow", "http://host/", 400),
            ("/follow", f"{remote}/s&offset=bad", 400),
        ):
            answer = await client.get(f"{path}?url={url}")
            assert answer.status_code == status, (path, url, answer.text)
            assert "pass-word" not in answer.text


async def test_one_line_gives_refusals_their_code(make: Callable[[], FastAPI | Starlette]) -> None:
    """With `answer_error` as the handler, refusals have the body that clients of /api expect, and their headers."""
    app = make()
    app.add_exception_handler(DurableChatError, answer_error)
    async with a_remote() as remote, asking(app) as client:
        answer = await client.get(f"/ensure?url={remote}/nothing")
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
        assert answer.headers["cache-control"] == "no-store"
        answer = await client.get("/ensure?url=http://127.0.0.1:9/s")
        assert (answer.status_code, answer.json()["code"]) == (503, "upstream_down")
        assert answer.headers["retry-after"] == "1"


async def test_a_source_that_fails_is_said_to_who_waits(make: Callable[[], FastAPI | Starlette]) -> None:
    """With await, a source that fails gives 502 without the exception's text."""
    async with a_remote() as remote, asking(make()) as client:
        answer = await client.get(f"/write?url={remote}/s")
        assert (answer.status_code, answer.json()["code"]) == (502, "source_failed")
        assert "secret" not in answer.text
        found = (await client.get(f"{remote}/s")).json()
        assert [found[0], found[-1]["code"]] == ["a", "source_failed"]


async def test_handlers_of_other_errors_are_not_ours() -> None:
    """Other errors pass through to the application's own handlers."""
    with pytest.raises(ValueError, match="theirs"):
        await answer_error(Request({"type": "http"}), ValueError("theirs"))


@pytest.mark.parametrize("kind", ["a session", "a stream"])
async def test_the_lifespan_drains_what_routes_write_to_remote_servers(kind: str) -> None:
    """A chat's shutdown waits for the writes of the application's routes."""
    chat = DurableChat("memory://", settings=Settings(model="demo", grace_s=20))
    go = asyncio.Event()

    async def source() -> AsyncIterator[Any]:
        yield "Hel"
        await go.wait()
        yield "lo."

    async with a_remote() as remote, httpx.AsyncClient(timeout=20) as client:
        async with chat.lifespan():
            target = DurableStreamTarget(f"{remote}/s")
            if kind == "a session":
                answer = await to_durable_chat_session_response(
                    stream=target, new_messages=[user("hi")], response_stream=source()
                )
                assert answer.status_code == 202
            else:
                answer = await to_durable_stream_response(source(), stream=target)
                assert answer.status_code == 201
            asyncio.get_running_loop().call_soon(go.set)
        found = (await client.get(f"{remote}/s")).json()
        said = [chunk.get("delta") or "" if isinstance(chunk, dict) else chunk for chunk in found]
        assert "".join(said).endswith("lo.")
        assert kind == "a stream" or found[-1]["type"] == "RUN_FINISHED"


async def test_one_of_two_chats_leaves_the_writes_to_the_other() -> None:
    """While another chat of the process is open, closing one interrupts no route's writes."""
    first = DurableChat("memory://", settings=Settings(model="demo", grace_s=0))
    second = DurableChat("memory://", settings=Settings(model="demo", grace_s=20))
    go = asyncio.Event()

    async def source() -> AsyncIterator[str]:
        await go.wait()
        yield "Hello."

    async with a_remote() as remote, httpx.AsyncClient(timeout=20) as client:
        async with second.lifespan():
            async with first.lifespan():
                target = DurableStreamTarget(f"{remote}/s")
                await to_durable_chat_session_response(
                    stream=target, new_messages=[user("hi")], response_stream=source()
                )
            go.set()
        assert (await client.get(f"{remote}/s")).json()[-1]["type"] == "RUN_FINISHED"
