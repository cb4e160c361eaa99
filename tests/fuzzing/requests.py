"""Requests of every kind for every route, in blocks that share a session. The same seed makes the same requests."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from durable_chat.config.settings import Action
from durable_chat.http.tokens import issue
from durable_chat.sessions.sessions import session_path
from tests.fuzzing.bodies import (
    ai_sdk_body,
    chat_body,
    commands_body,
    envelope_body,
    generation_body,
    run_body,
    stream_body,
)
from tests.fuzzing.values import scalar

BLOCK_REQUESTS = 40
"""So many requests go to one session before it is looked at whether that can still be used."""

SECRET = "fuzz-secret-" + "s" * 32
TOKEN_SECRET = "fuzz-token-" + "t" * 32
TOKEN_TTL_S = 3600
ACTIONS: tuple[Action, ...] = ("read", "send", "stop", "delete")

METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "FOO")
OFFSETS = (
    *(
        "-1",
        "now",
        "@OFFSET@",
        "@OFFSET@",
        "@OFFSET@",
        "@OFFSET@",
        "0000000000000000_0000000000000000",
        "",
        "0",
        "-2",
        "@OFFSET@",
        "@OFFSET@",
        "@OFFSET@",
        "0000000000000000_0000000000000003",
        "NaN",
    ),
    *("0000000000000000_9999999999999999", "9999999999999999_0000000000000000", "@OFFSET@~1", "\u0663", "-1%00"),
)
CONTENT_TYPES = (
    *("text/plain", "application/octet-stream", "application/json; charset=utf-16", "APPLICATION/JSON", "text/html"),
    *("", "json", "application/x-ndjson", "multipart/form-data; boundary=x", "a/" + "b" * 300, "\xff/\xfe"),
)
RANGES = ("bytes=0-", "bytes=-1", "bytes=5-2", "bytes=0-0,2-3", "items=1", "bytes=99999999999999999999-", "bytes=a-b")
ODD_HEADERS = (
    *(("Origin", "https://evil.example"), ("Origin", "null"), ("Last-Event-ID", "x"), ("Accept", "text/event-stream")),
    *(("X-Api-Key", "k" * 2000), ("X-Api-Key", "sk-fuzz"), ("If-None-Match", '*, "x", W/"y"'), ("If-Range", '"x"')),
    *(
        ("Cookie", "a=b; " * 50),
        ("Accept-Encoding", "gzip"),
        ("Expect", "100-continue"),
        ("X-Forwarded-For", "1.2.3.4"),
    ),
    *(("Sec-Fetch-Site", "cross-site"), ("Content-Encoding", "gzip"), ("Transfer-Encoding", "identity"), ("Via", "x")),
)
STREAM_HEADERS = (
    *(
        ("Stream-Closed", "true"),
        ("Stream-TTL", "1"),
        ("Stream-TTL", "-5"),
        ("Stream-TTL", "3600"),
        ("Stream-Seq", "a"),
    ),
    *(("Stream-Seq", "\xff" * 300), ("Stream-Expires-At", "2030-01-01T00:00:00Z"), ("Stream-Expires-At", "soon")),
    *(("Stream-Forked-From", "/v1/stream/@PATH@"), ("Stream-Fork-Offset", "@OFFSET@"), ("Stream-Fork-Sub-Offset", "1")),
)


@dataclass(frozen=True, slots=True)
class Request:
    """
    One request. With `together`, it is sent while the previous one is still open. In the target, the headers and the
    body, `@CALL@`, `@MESSAGE@`, `@RUN@`, `@APPROVAL@` and `@OFFSET@` stand for values that the session has shown so
    far.
    """

    number: int
    route: str
    method: str
    target: str
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    together: bool = False
    chunked: bool = False


class Maker:
    """A generator of the requests of one block. `ids` are its sessions. Mutable state: the random generator's."""

    def __init__(self, seed: int, block: int, *, guarded: bool) -> None:
        self.rng = random.Random(f"{seed}/{block}")
        self.block = block
        self.guarded = guarded
        odd = self.rng.choice(("a b", "é🙂" * 3, "x/y", "100%", "..", "🙂" * 200, "'\"<>", "%2F", "a" * 240, "&id=2#"))
        self.ids = (f"fuzz-{block}", f"{odd}{block}")

    def requests(self) -> list[Request]:
        return [self._request(self.block * BLOCK_REQUESTS + at) for at in range(BLOCK_REQUESTS)]

    def _request(self, number: int) -> Request:
        rng = self.rng
        names, weights = zip(*WEIGHTS.items(), strict=True)
        route = rng.choices(names, weights)[0]
        draft = GENERATORS[route](self)
        if rng.random() < 0.04:
            draft.method = rng.choice(METHODS)
        if rng.random() < 0.08:
            draft.headers.append(rng.choice(ODD_HEADERS))
        if rng.random() < 0.02 and draft.headers:
            name, value = rng.choice(draft.headers)
            draft.headers.append((name, value))
        together = rng.random() < 0.15
        chunked = bool(draft.body) and rng.random() < 0.1
        headers = tuple(draft.headers)
        return Request(number, route, draft.method, draft.target, headers, draft.body, together, chunked)

    # Parts of requests.

    def session(self) -> str:
        return self.ids[0] if self.rng.random() < 0.9 else self.ids[1]

    def query(self, session_id: str | None, **values: str) -> str:
        """Return a query, usually with the session, and sometimes with an invalid value."""
        rng = self.rng
        pairs = [*values.items()]
        if session_id is not None:
            pairs.insert(0, ("id", session_id))
        if rng.random() < 0.05 and pairs:
            at = rng.randrange(len(pairs))
            pairs[at] = (pairs[at][0], str(scalar(rng))[:400])
        if rng.random() < 0.03:
            pairs.append((rng.choice(("id", "offset", "live", "mode", "x", "runId")), str(scalar(rng))[:100]))
        text = "&".join(f"{name}={escape(value)}" for name, value in pairs)
        if rng.random() < 0.01:
            text += rng.choice(("&%zz", "&=&&", "&a" * 100, "?", "&\xff".encode("latin-1").decode("latin-1")))
        return f"?{text}" if text else ""

    def token(self, session_id: str | None) -> list[tuple[str, str]]:
        """Return the credentials of a request to the chat, usually valid ones."""
        if not self.guarded:
            return []
        rng = self.rng
        kind = rng.random()
        if kind < 0.92:
            token = token_for(session_id or "x")
        elif kind < 0.96:
            token = rng.choice(("", "x", "a.b.c", "eyJ" + "A" * 5000, SECRET))
        else:
            return []
        return [("Authorization", f"Bearer {token}")]

    def secret(self) -> list[tuple[str, str]]:
        if not self.guarded or self.rng.random() < 0.03:
            return []
        return [("Authorization", f"Bearer {SECRET}")]

    def content_type(self) -> tuple[str, str]:
        json = self.rng.random() < 0.94
        return ("Content-Type", "application/json" if json else self.rng.choice(CONTENT_TYPES))


@dataclass
class Draft:
    """A request that is being built."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes = b""


def token_for(session_id: str) -> str:
    return issue(TOKEN_SECRET, session_id, ACTIONS, now_s=time.time(), ttl_s=TOKEN_TTL_S)


def escape(text: str) -> str:
    """Escape for a query. Placeholders stay as they are."""
    return quote(text.encode("utf-8", "surrogatepass"), safe="@~")


def stream_target(session_id: str) -> str:
    """Return the last segment of the URL of a session's stream."""
    return quote(session_path(session_id), safe="")


def post_chat(maker: Maker) -> Draft:
    rng = maker.rng
    session_id = maker.session()
    if rng.random() < 0.07:
        return Draft("DELETE", f"/api/chat{maker.query(session_id)}", maker.token(session_id))
    named = rng.random() < 0.85
    extra = {"mode": "await"} if rng.random() < 0.2 else {}
    if rng.random() < 0.2:
        extra["turns"] = rng.choice(("steer", "steer", "queue", "interrupt", "refuse", "x"))
    body = chat_body(rng, None if named else session_id)
    headers = [maker.content_type(), *maker.token(session_id)]
    if rng.random() < 0.2:
        headers.append(
            (rng.choice(("Idempotency-Key", "X-Run-Id")), rng.choice(("k1", "k2", "@RUN@", "\xff", "k" * 300)))
        )
    return Draft("POST", f"/api/chat{maker.query(session_id if named else None, **extra)}", headers, body)


def post_door(path: str, make_body: Callable[[random.Random, str], bytes]) -> Callable[[Maker], Draft]:
    """Return a turn of another frontend."""

    def make(maker: Maker) -> Draft:
        rng = maker.rng
        session_id = maker.session()
        accept = rng.choice(("*/*", "text/event-stream", "application/x-ndjson", "\xff"))
        headers = [maker.content_type(), *maker.token(session_id), ("Accept", accept)]
        if rng.random() < 0.1:
            headers.append(("Last-Event-ID", rng.choice(OFFSETS)))
        query = maker.query(session_id) if rng.random() < 0.1 else ""
        target = path.replace("{id}", escape_path(session_id)).replace(
            "{agent}", rng.choice(("default", "default", "%00"))
        )
        return Draft("POST", f"{target}{query}", headers, make_body(rng, session_id))

    return make


def get_door(path: str) -> Callable[[Maker], Draft]:
    """Return a read of another frontend."""

    def make(maker: Maker) -> Draft:
        rng = maker.rng
        session_id = maker.session()
        run_id = rng.choice(("@RUN@", "@RUN@", "x", "%00"))
        target = path.replace("{id}", escape_path(session_id)).replace("{run}", run_id)
        values = {"offset": rng.choice(OFFSETS)} if rng.random() < 0.5 else {}
        if rng.random() < 0.3:
            values["live"] = rng.choice(("sse", "long-poll", "x"))
        return Draft("GET", f"{target}{maker.query(session_id, **values)}", maker.token(session_id))

    return make


def generation(path: str, methods: tuple[str, ...] = ("POST", "POST", "GET")) -> Callable[[Maker], Draft]:
    """Return a request to a route of generations: order something, read its slot, stop it, or get its file."""

    def make(maker: Maker) -> Draft:
        rng = maker.rng
        session_id = maker.session()
        target = path.replace("{job_id}", rng.choice(("@RUN@", "x", "%00", "..")))
        values = {"threadId": session_id} if rng.random() < 0.7 else {}
        for name in ("offset", "runId", "artifact"):
            if rng.random() < 0.2:
                values[name] = rng.choice((*OFFSETS, "@RUN@", "@ARTIFACT@"))
        accept = rng.choice(("*/*", "text/event-stream", "application/json", "\xff"))
        headers = [maker.content_type(), *maker.token(session_id), ("Accept", accept)]
        body = generation_body(rng, session_id) if (method := rng.choice(methods)) == "POST" else b""
        return Draft(method, f"{target}{maker.query(None, **values)}", headers, body)

    return make


def escape_path(session_id: str) -> str:
    """Return a session's id as one segment of a path."""
    return quote(session_id.encode("utf-8", "surrogatepass"), safe="@~")


def read_chat(maker: Maker) -> Draft:
    rng = maker.rng
    session_id = maker.session()
    values = {"offset": rng.choice(OFFSETS)} if rng.random() < 0.8 else {}
    if rng.random() < 0.3:
        values["live"] = rng.choice(("sse", "long-poll", "true"))
    if rng.random() < 0.2:
        values["cursor"] = rng.choice(("0", "x", "9" * 30))
    return Draft("GET", f"/api/chat-stream{maker.query(session_id, **values)}", maker.token(session_id))


def events(maker: Maker) -> Draft:
    rng = maker.rng
    named = [f"{rng.choice(OFFSETS)},{maker.session()}" for _ in range(rng.choice((0, 1, 1, 2, 3, 250)))]
    if rng.random() < 0.2:
        named.append(str(scalar(rng))[:200])
    query = "&".join(f"session={escape(value)}" for value in named)
    return Draft("GET", f"/api/events?{query}", maker.token(maker.session()))


def snapshot(maker: Maker) -> Draft:
    session_id = maker.session()
    return Draft("GET", f"/api/chat-snapshot{maker.query(session_id)}", maker.token(session_id))


def stop(maker: Maker) -> Draft:
    session_id = maker.session()
    values = {"runId": maker.rng.choice(("@RUN@", "x", "", "[]"))} if maker.rng.random() < 0.6 else {}
    return Draft("POST", f"/api/chat-stop{maker.query(session_id, **values)}", maker.token(session_id))


def waiting_turns(maker: Maker) -> Draft:
    """List the turns that wait, take one back, or send one now."""
    rng = maker.rng
    session_id = maker.session()
    values: dict[str, str] = {}
    if rng.random() < 0.8:
        values["messageId"] = rng.choice(("u1", "u2", "@RUN@", "", "x" * 300, "[]"))
    if rng.random() < 0.4:
        values["turns"] = rng.choice(("steer", "interrupt", "queue", ""))
    method = rng.choice(("GET", "POST", "DELETE"))
    return Draft(method, f"/api/chat-turns{maker.query(session_id, **values)}", maker.token(session_id))


def artifact(maker: Maker) -> Draft:
    rng = maker.rng
    session_id = maker.session()
    values = {"artifact": rng.choice(("@ARTIFACT@", "@ARTIFACT@", "x", "", "..", "0" * 64))}
    headers = maker.token(session_id)
    if rng.random() < 0.6:
        headers.append(("Range", rng.choice(RANGES)))
    return Draft("GET", f"/api/chat-artifact{maker.query(session_id, **values)}", headers)


def stream(prefix: str) -> Callable[[Maker], Draft]:
    """Return a request with any method of the protocol, usually an append to the session's stream."""

    def make(maker: Maker) -> Draft:
        rng = maker.rng
        path = stream_target(maker.session())
        if rng.random() < 0.1:
            path = rng.choice(
                (f"x-{maker.block}", "__ds", "a//b", "..", "%00", "%zz", f"x-{maker.block}/y", "", "\xff")
            )
        method = rng.choices(("POST", "PUT", "GET", "HEAD", "DELETE", "OPTIONS"), (60, 10, 20, 4, 3, 3))[0]
        headers = maker.secret()
        body = b""
        query = ""
        if method in ("POST", "PUT"):
            headers.append(maker.content_type() if method == "POST" or rng.random() < 0.5 else ("Content-Type", "a/b"))
            body = stream_body(rng)
            headers += [rng.choice(STREAM_HEADERS) for _ in range(rng.choice((0, 0, 0, 1)))]
            if rng.random() < 0.1:
                numbers = ("0", "1", "-1", "x", "9007199254740992", "9" * 30)
                headers += [("Producer-Id", "p"), ("Producer-Epoch", rng.choice(numbers))]
                headers += [("Producer-Seq", rng.choice(numbers))]
        elif method == "GET":
            values = {"offset": rng.choice(OFFSETS)}
            if rng.random() < 0.2:
                values["live"] = rng.choice(("sse", "long-poll", "x"))
            query = maker.query(None, **values)
        return Draft(method, f"{prefix}{path}{query}", [(n, v.replace("@PATH@", path)) for n, v in headers], body)

    return make


def plain(path: str) -> Callable[[Maker], Draft]:
    """Return a request with a body to a route that takes none."""

    def make(maker: Maker) -> Draft:
        rng = maker.rng
        names = ("index.html", "shared", "app.js", "api.js", "style.css", "..%2Fpages.py", "%00", "\xff", "a" * 3000)
        target = path.replace("{name}", rng.choice(names))
        query = maker.query(None, x=str(scalar(rng))[:50]) if rng.random() < 0.2 else ""
        return Draft("GET", target + query, maker.secret() if path == "/metrics" else [])

    return make


def nowhere(maker: Maker) -> Draft:
    """Return a request to an address that is not a route."""
    paths = ("/api/", "/api/chat/", "/api/x", "/v1/stream", "/v2", "//", "/%ff", "/api/chat%00", "*", "/static/", "/..")
    body = chat_body(maker.rng, None) if maker.rng.random() < 0.3 else b""
    return Draft(maker.rng.choice(METHODS), maker.rng.choice(paths), [], body)


DOORS: dict[str, Callable[[Maker], Draft]] = {
    **{path: post_door(path, run_body) for path in ("/api/chat/ndjson", "/api/agui")},
    **{path: post_door(path, ai_sdk_body) for path in ("/api/ai-sdk", "/api/ai-sdk-durable", "/api/ai-sdk/{id}/stop")},
    **{path: get_door(path) for path in ("/api/ai-sdk/{id}/stream", "/api/ai-sdk/{id}/messages")},
    **{path: get_door(path) for path in ("/api/ai-sdk-durable/{id}/stream", "/api/ai-sdk-durable/{id}/runs/{run}")},
    **{
        f"/api/copilotkit/agent/{{agent}}/{name}": post_door(f"/api/copilotkit/agent/{{agent}}/{name}", run_body)
        for name in ("run", "connect", "stop/{id}")
    },
    "/api/copilotkit": post_door("/api/copilotkit", envelope_body),
    "/api/copilotkit/info": get_door("/api/copilotkit/info"),
    "/api/assistant-transport": post_door("/api/assistant-transport", commands_body),
}
"""The routes of other frontends."""

GENERATE = "/api/generate"
GENERATIONS: dict[str, Callable[[Maker], Draft]] = {
    GENERATE: generation(GENERATE, ("GET",)),
    f"{GENERATE}/stop": generation(f"{GENERATE}/stop"),
    f"{GENERATE}/artifact": generation(f"{GENERATE}/artifact", ("GET",)),
    f"{GENERATE}/video/{{job_id}}": generation(f"{GENERATE}/video/{{job_id}}", ("GET",)),
    **{
        f"{GENERATE}/{activity}{wire}": generation(f"{GENERATE}/{activity}{wire}")
        for activity in ("image", "speech", "transcription", "summary", "video")
        for wire in ("", "/ndjson")
    },
}
"""The routes of generations."""

NOWHERE = "(none)"
WEIGHTS = {
    "/api/chat": 44,
    "/api/chat-stream": 9,
    "/api/chat-snapshot": 5,
    "/api/events": 2,
    "/api/chat-stop": 3,
    "/api/chat-turns": 3,
    "/api/chat-artifact": 3,
    **dict.fromkeys(DOORS, 2),
    **dict.fromkeys(GENERATIONS, 1),
    "/v1/stream/{path}": 20,
    "/streams/{path}": 4,
    "/v1/streams/{path}": 2,
    "/": 1,
    "/static/{name}": 1,
    "/durable-chat.js": 0.5,
    "/durable-chat-{name}.js": 0.5,
    "/durable-chat.d.ts": 0.5,
    "/openapi.json": 0.5,
    "/healthz": 0.5,
    "/readyz": 0.5,
    "/metrics": 0.5,
    NOWHERE: 4,
}
"""How often each route is asked, of a hundred requests."""

GENERATORS: dict[str, Callable[[Maker], Draft]] = {
    "/api/chat": post_chat,
    "/api/chat-stream": read_chat,
    "/api/chat-snapshot": snapshot,
    "/api/events": events,
    "/api/chat-stop": stop,
    "/api/chat-turns": waiting_turns,
    "/api/chat-artifact": artifact,
    **DOORS,
    **GENERATIONS,
    "/v1/stream/{path}": stream("/v1/stream/"),
    "/streams/{path}": stream("/streams/"),
    "/v1/streams/{path}": stream("/v1/streams/"),
    **{path: plain(path) for path in ("/", "/static/{name}", "/durable-chat.js", "/durable-chat-{name}.js")},
    **{path: plain(path) for path in ("/durable-chat.d.ts", "/openapi.json", "/healthz", "/readyz", "/metrics")},
    NOWHERE: nowhere,
}
"""A generator for every route that the application serves; `test_fuzz` fails where one is missing."""


def resolve(text: str, found: Mapping[str, list[str]], number: int) -> str:
    """Replace the placeholders in the text by the values that the session has shown."""
    if "@" not in text:
        return text
    for name, values in found.items():
        text = text.replace(f"@{name}@", values[number % len(values)] if values else "none")
    return text


def describe(request: Request, body_shown_max: int = 600) -> dict[str, Any]:
    """Return the request for a report. Long bodies are cut, and tokens are left out because they differ each time."""
    headers = [f"{name}: {value[:100]}" for name, value in request.headers if name != "Authorization"]
    shown = request.body[:body_shown_max].decode("utf-8", "backslashreplace")
    more = f"… ({len(request.body)} bytes)" if len(request.body) > body_shown_max else ""
    return {"method": request.method, "target": request.target, "headers": headers, "body": shown + more}
