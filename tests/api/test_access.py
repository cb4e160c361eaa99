"""Authorization of every route on a real server: with tokens, with a hook, and with both."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from starlette.exceptions import HTTPException
from starlette.requests import Request

from durable_chat.api.access import Authorize, ask
from durable_chat.config.settings import ACTIONS, Action
from durable_chat.errors import NotFound, Unavailable
from durable_chat.http.tokens import issue
from tests.sessions.serving import Chat, script, serve_chat, user

SECRET = "a-secret-of-the-tests-long-enough"

# Every chat route: method, address for the session `a`, body, and the required action.
BODY = {"messages": [user("Hi")]}
ROUTES: list[tuple[str, str, Any, Action]] = [
    ("POST", "/api/chat?id=a", BODY, "send"),
    ("POST", "/api/chat", {**BODY, "id": "a"}, "send"),
    ("POST", "/api/chat?mode=await", {**BODY, "threadId": "a"}, "send"),
    ("DELETE", "/api/chat?id=a", None, "delete"),
    ("GET", "/api/chat-stream?id=a", None, "read"),
    ("HEAD", "/api/chat-stream?id=a", None, "read"),
    ("GET", "/api/chat-stream?id=a&offset=-1&live=long-poll", None, "read"),
    ("GET", "/api/chat-stream?id=a&offset=-1&live=sse", None, "read"),
    ("GET", "/api/events?session=-1,a", None, "read"),
    ("GET", "/api/chat-snapshot?id=a", None, "read"),
    ("GET", f"/api/chat-artifact?id=a&artifact={'0' * 64}", None, "read"),
    ("POST", "/api/chat-stop?id=a", None, "stop"),
]
OPENED = (200, 202, 204, (404, "no_artifact"))
"""What is answered to whoever may: there is no such file."""

every_route = pytest.mark.parametrize(("method", "path", "body", "action"), ROUTES)


def token(*can: Action, session: str = "a", ttl_s: int = 60, secret: str = SECRET, ago_s: float = 0) -> str:
    return issue(secret, session, can, now_s=time.time() - ago_s, ttl_s=ttl_s)


def bearer(text: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {text}"}


async def status_of(chat: Chat, method: str, path: str, body: Any, headers: dict[str, str] | None = None) -> Any:
    """Return the status of a response and the code of an error. A live response is closed at once."""
    async with chat.client.stream(method, path, json=body, headers=headers) as answer:
        if answer.status_code < 400:
            return answer.status_code
        await answer.aread()
        if method == "HEAD":
            return answer.status_code, None
        assert answer.headers["cache-control"] == "no-store"
        if answer.status_code == 401:
            assert answer.headers["www-authenticate"].startswith("Bearer")
        return answer.status_code, answer.json()["code"]


# Tokens.


@every_route
async def test_refused_without_a_good_token(method: str, path: str, body: Any, action: Action) -> None:
    """A missing, invalid or expired token, or one in the query, gets 401, and nothing happens."""
    model = script()
    good = token(*ACTIONS)
    unsigned = good.rpartition(".")[0]
    cases: list[tuple[str, str, dict[str, str]]] = [
        ("missing_token", path, {}),
        ("missing_token", path, {"Authorization": "Basic dTpw"}),
        ("missing_token", path, {"Cookie": f"token={good}"}),
        ("missing_token", path, {"X-Api-Key": good}),
        *(
            ("missing_token", f"{path}{'&' if '?' in path else '?'}{name}={good}", {})
            for name in ("token", "access_token")
        ),
        ("bad_token", path, {"Authorization": "Bearer"}),
        ("bad_token", path, bearer(SECRET)),
        ("bad_token", path, bearer(token(*ACTIONS, secret="x" * 32))),
        ("bad_token", path, bearer(f"{unsigned}.")),
        ("expired_token", path, bearer(token(*ACTIONS, ttl_s=60, ago_s=100))),
    ]
    async with serve_chat(model, token_secret=SECRET) as chat:
        for code, address, headers in cases:
            expected = (401, None if method == "HEAD" else code)
            assert await status_of(chat, method, address, body, headers) == expected
        assert chat.runs.count == 0
        assert (await chat.client.get("/api/chat-stream?id=a", headers=bearer(good))).json() == []
    assert model.turns == []


@every_route
async def test_two_tokens_are_none(method: str, path: str, body: Any, action: Action) -> None:
    """Two Authorization headers are refused."""
    async with serve_chat(script(), token_secret=SECRET) as chat:
        twice = [("Authorization", f"Bearer {token(action)}")] * 2
        async with chat.client.stream(method, path, json=body, headers=twice) as answer:
            assert answer.status_code == 401


@every_route
async def test_a_token_opens_what_it_says(method: str, path: str, body: Any, action: Action) -> None:
    """A token for another session or for other actions gets 403. The right token opens the route."""
    async with serve_chat(script(), token_secret=SECRET) as chat:
        forbidden = (403, None if method == "HEAD" else "forbidden")
        others = [other for other in ACTIONS if other != action]
        for text in (token(*others), token(), token(*ACTIONS, session="b"), token(*ACTIONS, session="a ")):
            assert await status_of(chat, method, path, body, bearer(text)) == forbidden
        opened = await status_of(chat, method, path, body, bearer(token(action)))
        assert opened in OPENED


async def test_body_is_not_read_for_strangers() -> None:
    """A caller without a token is answered before its body arrives, whether or not the address names the session."""
    async with serve_chat(script(), token_secret=SECRET) as chat:
        for query in ("", "?id=a"):
            url = httpx.URL(chat.client.base_url)
            reader, writer = await asyncio.open_connection(url.host, url.port)
            lines = [f"POST /api/chat{query} HTTP/1.1", "Host: x", "Content-Type: application/json"]
            writer.write("\r\n".join([*lines, "Content-Length: 1000000", "", ""]).encode())
            async with asyncio.timeout(20):
                assert b" 401 " in await reader.readline()
            writer.close()


async def test_session_of_the_body_counts() -> None:
    """A token of one session cannot send to another session that the body names, nor to two sessions."""
    async with serve_chat(script(), token_secret=SECRET) as chat:
        own = bearer(token("send"))
        assert await status_of(chat, "POST", "/api/chat", {**BODY, "id": "b"}, own) == (403, "forbidden")
        assert await status_of(chat, "POST", "/api/chat?id=a", {**BODY, "id": "b"}, own) == (400, "bad_id")


async def test_odd_names() -> None:
    """A session's name is compared exactly, whatever characters it has."""
    async with serve_chat(script(), token_secret=SECRET) as chat:
        for name in ("a/b", "ü %2F", "😀"):
            params = {"id": name}
            answer = await chat.client.get(
                "/api/chat-snapshot", params=params, headers=bearer(token("read", session=name))
            )
            assert answer.status_code == 200
            answer = await chat.client.get("/api/chat-snapshot", params=params, headers=bearer(token("read")))
            assert answer.status_code == 403


# The hook.


class Hook:
    """A hook with a fixed answer. Mutable: `asked`, every call so far."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, str, str]] = []

    def __call__(self, request: Request, session_id: str, action: Action) -> Any:
        self.asked.append((request.headers.get("x-user", ""), session_id, action))
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


class AsyncHook(Hook):
    async def __call__(self, request: Request, session_id: str, action: Action) -> Any:
        await asyncio.sleep(0)
        return super().__call__(request, session_id, action)


@pytest.mark.parametrize("kind", [Hook, AsyncHook])
@every_route
async def test_hook_is_asked(kind: type[Hook], method: str, path: str, body: Any, action: Action) -> None:
    """Every route calls the hook once, with the request, the session and the action. Only True allows the request."""
    hook = kind(False, None, 1, "yes", True)
    async with serve_chat(script(), authorize=hook) as chat:
        for _ in range(4):
            refused = await status_of(chat, method, path, body, {"X-User": "Ada"})
            assert refused == (403, None if method == "HEAD" else "forbidden")
        assert await status_of(chat, method, path, body, {"X-User": "Ada"}) in OPENED
    assert hook.asked == [("Ada", "a", action)] * 5


def as_function(hook: Hook) -> Authorize:
    def authorize(request: Request, session_id: str, action: Action) -> Any:
        return hook(request, session_id, action)

    return authorize


def as_coroutine(hook: Hook) -> Authorize:
    async def authorize(request: Request, session_id: str, action: Action) -> Any:
        return hook(request, session_id, action)

    return authorize


def as_lambda_of_coroutine(hook: Hook) -> Authorize:
    inner = as_coroutine(hook)
    return lambda *arguments: inner(*arguments)


@pytest.mark.parametrize("form", [as_function, as_coroutine, as_lambda_of_coroutine])
async def test_forms_of_a_hook(form: Callable[[Hook], Authorize]) -> None:
    """
    A hook may be a function, a coroutine function or a callable that returns a coroutine. If it raises, the request
    is refused.
    """
    answers = (
        (True, 200),
        (False, (403, "forbidden")),
        (ValueError("a bug"), (403, "forbidden")),
        (NotFound("Nothing here.", code="no_such_chat"), (404, "no_such_chat")),
        (HTTPException(401, "Who are you?"), (401, "http_error")),
    )
    async with serve_chat(script(), authorize=form(Hook(*(given for given, _ in answers)))) as chat:
        for _, expected in answers:
            answer = await chat.client.get("/api/chat-snapshot?id=a")
            told = answer.status_code if answer.is_success else (answer.status_code, answer.json()["code"])
            assert told == expected


async def test_a_hook_that_hangs() -> None:
    """A hook that hangs times out, and its request is refused."""
    never = asyncio.Event()

    async def hanging(request: Request, session_id: str, action: Action) -> bool:
        return await never.wait()

    with pytest.raises(Unavailable) as refused:
        await ask(hanging, Request({"type": "http"}), "a", "read", max_s=0.01)
    assert refused.value.code == "authorize_timeout"


async def test_a_hook_that_waits_holds_up_nobody() -> None:
    """A synchronous hook runs in a thread, so that other requests do not wait for it."""
    loop = asyncio.get_running_loop()
    called, others_answered = asyncio.Event(), asyncio.Event()

    def authorize(request: Request, session_id: str, action: Action) -> bool:
        if session_id == "slow":
            loop.call_soon_threadsafe(called.set)
            asyncio.run_coroutine_threadsafe(others_answered.wait(), loop).result(20)
        return True

    async with serve_chat(script(), authorize=authorize) as chat:
        slow = asyncio.create_task(chat.client.get("/api/chat-snapshot?id=slow"))
        await called.wait()
        assert (await chat.client.get("/api/chat-snapshot?id=quick")).status_code == 200
        others_answered.set()
        assert (await slow).status_code == 200


@pytest.mark.parametrize(
    ("good_token", "allowed", "expected", "asked"),
    [
        (True, True, 200, 1),
        (True, False, (403, "forbidden"), 1),
        (False, True, (401, "missing_token"), 0),
        (False, False, (401, "missing_token"), 0),
    ],
)
async def test_token_and_hook(good_token: bool, allowed: bool, expected: Any, asked: int) -> None:
    """With both, both must allow the request, and the hook is not called without a valid token."""
    hook = Hook(allowed)
    async with serve_chat(script(), authorize=hook, token_secret=SECRET) as chat:
        headers = bearer(token("read")) if good_token else {}
        assert await status_of(chat, "GET", "/api/chat-snapshot?id=a", None, headers) == expected
    assert len(hook.asked) == asked


async def test_neither() -> None:
    """Without tokens and a hook, everybody is allowed, and a token is ignored."""
    async with serve_chat(script()) as chat:
        for method, path, body, _ in ROUTES:
            assert await status_of(chat, method, path, body, bearer("anything")) in OPENED


# Rate limits.


async def test_turns_per_minute() -> None:
    """A caller over the rate gets 429 with the time to wait, and nothing is written. Other routes still work."""
    model = script()
    async with serve_chat(model, turns_per_minute=2) as chat:
        for number in range(2):
            answer = await chat.post("a", user("Hi", f"u{number}"), mode="await")
            assert answer.status_code == 200
        for session in ("a", "b"):
            answer = await chat.post(session, user("Hi", "u3"))
            assert (answer.status_code, answer.json()["code"]) == (429, "too_many_turns")
            assert 1 <= int(answer.headers["retry-after"]) <= 30
        assert (await chat.snapshot("b"))["messages"] == []
        assert (await chat.client.post("/api/chat-stop?id=a")).status_code == 200
    assert len(model.turns) == 2


async def test_turns_per_minute_by_token() -> None:
    """With tokens, each session has its own rate limit, and an invalid token does not count towards it."""
    async with serve_chat(script(), turns_per_minute=1, token_secret=SECRET) as chat:
        for session in ("a", "b"):
            path, own = f"/api/chat?id={session}", bearer(token("send", session=session))
            assert await status_of(chat, "POST", path, BODY, bearer(token("send", session="c"))) == (403, "forbidden")
            assert await status_of(chat, "POST", path, BODY, bearer(token("read", session=session))) == (
                403,
                "forbidden",
            )
            assert await status_of(chat, "POST", path, BODY, own) == 202
            assert await status_of(chat, "POST", path, BODY, own) == (429, "too_many_turns")
            assert await status_of(chat, "POST", "/api/chat", {**BODY, "id": session}, own) == (429, "too_many_turns")
