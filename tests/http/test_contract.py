"""The contract of the routes on a running server: status, code and headers of every response."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from durable_chat.http.auth import CHAT_EXPOSED_HEADERS
from tests.servers import Server

ORIGIN = "https://app.example"
JSON = {"content-type": "application/json"}
SETTINGS = {
    "DURABLE_CHAT_MODEL": "demo",
    "DURABLE_CHAT_DEMO_DELAY_MS": "2",
    "DURABLE_CHAT_STORE": "memory://",
    "DURABLE_CHAT_ALLOW_ORIGINS": ORIGIN,
    "DURABLE_CHAT_BODY_MAX_BYTES": "100000",
}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    server = Server(tmp_path_factory.mktemp("contract"), SETTINGS)
    server.start()
    with httpx.Client(base_url=server.url, timeout=20) as made:
        yield made
    server.kill()


def turn(text: str = "hi", **more: Any) -> dict[str, Any]:
    return {"messages": [{"id": "u1", "role": "user", "parts": [{"type": "text", "content": text}]}], **more}


# Method, address, request body and expected response.
REFUSED: dict[str, tuple[str, str, dict[str, Any], int, str]] = {
    "no id": ("POST", "/api/chat", {"json": turn()}, 400, "bad_id"),
    "an empty id": ("POST", "/api/chat?id=", {"json": turn()}, 400, "bad_id"),
    "two ids": ("POST", "/api/chat?id=a", {"json": turn(id="b")}, 400, "bad_id"),
    "two ids in the body": ("POST", "/api/chat", {"json": turn(id="a", threadId="b")}, 400, "bad_id"),
    "an id of another kind": ("POST", "/api/chat", {"json": turn(id=1)}, 400, "bad_id"),
    "no JSON": ("POST", "/api/chat?id=n", {"content": b"{", "headers": JSON}, 400, "bad_json"),
    "no object": ("POST", "/api/chat?id=n", {"content": b"[]", "headers": JSON}, 400, "bad_body"),
    "no messages": ("POST", "/api/chat?id=n", {"json": {"messages": []}}, 400, "no_messages"),
    "an unknown mode": ("POST", "/api/chat?id=n&mode=x", {"json": turn()}, 400, "bad_mode"),
    "a key that is too long": (
        *("POST", "/api/chat?id=n", {"json": turn(), "headers": {"idempotency-key": "k" * 257}}),
        *(400, "bad_key"),
    ),
    "another type": ("POST", "/api/chat?id=n", {"content": b"{}"}, 415, "unsupported_media_type"),
    "too much": ("POST", "/api/chat?id=n", {"json": turn("x" * 100_000)}, 413, "too_large"),
    "a foreign page": (
        *("POST", "/api/chat?id=n", {"json": turn(), "headers": {"origin": "https://other.example"}}),
        *(403, "forbidden_origin"),
    ),
    "a foreign page that deletes": (
        *("DELETE", "/api/chat?id=n", {"headers": {"origin": "https://other.example"}}, 403),
        "forbidden_origin",
    ),
    "another method": ("PUT", "/api/chat?id=n", {}, 405, "method_not_allowed"),
    "no such route": ("GET", "/api/nothing", {}, 404, "not_found"),
    "a read without an id": ("GET", "/api/chat-stream", {}, 400, "bad_id"),
    "a bad offset": ("GET", "/api/chat-stream?id=n&offset=x", {}, 400, "bad_offset"),
    "live without an offset": ("GET", "/api/chat-stream?id=n&live=sse", {}, 400, "bad_offset"),
    "another way to live": ("GET", "/api/chat-stream?id=n&offset=-1&live=x", {}, 400, "bad_live"),
    "a state without an id": ("GET", "/api/chat", {}, 400, "bad_id"),
    "a snapshot without an id": ("GET", "/api/chat-snapshot", {}, 400, "bad_id"),
    "a stop without an id": ("POST", "/api/chat-stop", {}, 400, "bad_id"),
    "a delete without an id": ("DELETE", "/api/chat", {}, 400, "bad_id"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(client: httpx.Client, name: str) -> None:
    """A refusal has a message for people and a code for programs, is not cached, and writes nothing."""
    method, address, sent, status, code = REFUSED[name]
    answer = client.request(method, address, **sent)
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert answer.json()["error"].endswith(".")
    assert answer.headers["cache-control"] == "no-store"
    assert client.get("/api/chat-snapshot?id=n").json() == {
        "messages": [],
        "offset": "0000000000000000_0000000000000000",
        "activeRun": None,
        "lastRun": None,
        "interrupts": None,
    }
    assert client.get("/v1/stream/chat-n").status_code == 404


def test_a_refused_method_is_told_of_the_others(client: httpx.Client) -> None:
    """`Allow` lists all methods that the address accepts."""
    allowed = client.put("/api/chat").headers["allow"]
    assert {name.strip() for name in allowed.split(",")} == {"GET", "HEAD", "POST", "DELETE"}


def test_a_turn(client: httpx.Client) -> None:
    """
    A turn gets 202 with the run and the offset. With await it gets 200, or 502 with the run's message, with the same
    headers.
    """
    for query, text, status in (("", "hi", 202), ("&mode=await", "hi", 200), ("&mode=await", "fail", 502)):
        answer = client.post(f"/api/chat?id=turn-{status}{query}", json=turn(text))
        assert answer.status_code == status, answer.text
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-run-id"].startswith("run-")
        assert len(answer.headers["stream-next-offset"]) == 33
        assert answer.content == b"" or answer.json()["code"] == "run_failed"


@pytest.mark.parametrize("names", [{"id": "named"}, {"threadId": "named"}, {"id": "named", "threadId": "named"}])
def test_the_session_may_be_in_the_body(client: httpx.Client, names: dict[str, str]) -> None:
    """The body may name the session by either field, or by both if they are equal."""
    assert client.post("/api/chat", json=turn(**names)).status_code == 202


READS = {
    "the compacted session": "/api/chat-stream?id=read",
    "its chunks": "/api/chat-stream?id=read&offset=0000000000000000_0000000000000000",
    "its end": "/api/chat-stream?id=read&offset=now",
    "a long-poll": "/api/chat-stream?id=read&offset=-1&live=long-poll",
    "its snapshot": "/api/chat-snapshot?id=read",
    "a session that does not exist": "/api/chat-stream?id=nobody",
    "a snapshot of one": "/api/chat-snapshot?id=nobody",
    "its state": "/api/chat?threadId=read",
}


@pytest.mark.parametrize("name", READS)
def test_reads_are_private(client: httpx.Client, name: str) -> None:
    """
    A read is not cacheable by shared caches. The same holds for a HEAD, an empty response and a page of an allowed
    origin.
    """
    client.post("/api/chat?id=read&mode=await", json=turn())
    answer = client.get(READS[name])
    tagged = {"if-none-match": answer.headers.get("etag", '"none"')}
    for again in (
        answer,
        client.head(READS[name]),
        client.get(READS[name], headers=tagged),
        client.get(READS[name], headers={"origin": ORIGIN}),
    ):
        assert again.headers["cache-control"] == "private, no-cache"
        assert again.headers["vary"] == "Authorization, Cookie, Origin"
    assert (client.get(READS[name], headers=tagged).status_code == 304) is ("etag" in answer.headers)


def test_a_live_read_is_private(client: httpx.Client) -> None:
    """A live read is not cacheable by shared caches either."""
    with client.stream("GET", "/api/chat-stream?id=read&offset=-1&live=sse") as answer:
        assert answer.headers["cache-control"] == "private, no-cache"
        assert answer.headers["vary"] == "Authorization, Cookie, Origin"
        assert answer.headers["content-type"] == "text/event-stream"


def test_another_origin(client: httpx.Client) -> None:
    """
    A page of an allowed origin may send the headers its client needs and read the response headers, also of a
    refusal.
    """
    asked = "content-type, authorization, x-run-id, last-event-id, x-api-key, idempotency-key, if-none-match"
    headers = {"origin": ORIGIN, "access-control-request-method": "POST"}
    preflight = client.options(
        "/api/chat", headers={**headers, "access-control-request-headers": f"{asked}, x-byok-openai"}
    )
    assert preflight.status_code == 204
    allowed = {name.strip().lower() for name in preflight.headers["access-control-allow-headers"].split(",")}
    assert allowed >= {*asked.split(", "), "x-byok-openai"}
    assert "DELETE" in preflight.headers["access-control-allow-methods"]
    for answer in (
        client.post("/api/chat?id=cors", json=turn(), headers={"origin": ORIGIN}),
        client.get("/api/chat-snapshot", headers={"origin": ORIGIN}),
    ):
        assert answer.headers["access-control-allow-origin"] == ORIGIN
        assert answer.headers["access-control-expose-headers"] == CHAT_EXPOSED_HEADERS
        assert "Origin" in answer.headers["vary"]
    exposed = {name.strip() for name in CHAT_EXPOSED_HEADERS.split(",")}
    assert exposed == {
        *("Retry-After", "Stream-Next-Offset", "Stream-Cursor", "Stream-Up-To-Date", "Stream-Closed"),
        *("ETag", "Location", "X-Run-Id", "Accept-Ranges", "Content-Range"),
    }
    foreign = client.options("/api/chat", headers={**headers, "origin": "https://other.example"})
    assert (foreign.status_code, "access-control-allow-origin" in foreign.headers) == (403, False)


def test_stop_and_delete(client: httpx.Client) -> None:
    """Stop and delete succeed when there is nothing to stop or delete."""
    assert client.post("/api/chat-stop?id=none").json() == {"stopped": []}
    assert client.post("/api/chat-stop?id=none&runId=run-1").json() == {"stopped": []}
    deleted = client.delete("/api/chat?id=none")
    assert (deleted.status_code, deleted.content, deleted.headers["cache-control"]) == (204, b"", "no-store")


def test_a_stream_that_is_no_session(client: httpx.Client) -> None:
    """A stream of another type is neither written nor shown, whoever created it. A closed session takes no more."""
    client.put("/v1/stream/chat-page", headers={"content-type": "text/html"}, content=b"<script>")
    for query in ("", "&offset=now", "&offset=-1&live=long-poll", "&offset=-1&live=sse"):
        answer = client.get(f"/api/chat-stream?id=page{query}")
        assert (answer.status_code, answer.json()["code"]) == (409, "not_a_session")
    assert client.post("/api/chat?id=page", json=turn()).json()["code"] == "not_a_session"
    client.put("/v1/stream/chat-closed", headers={**JSON, "stream-closed": "true"})
    answer = client.post("/api/chat?id=closed", json=turn())
    assert (answer.status_code, answer.json()["code"]) == (409, "session_closed")
