"""Authorization of the protocol routes and `/api`, tested as functions and over HTTP."""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

import pytest

from durable_chat.http.auth import allowed_chat_headers, allowed_origin, bearer_matches, is_same_origin
from durable_chat.http.callers import Caller, caller_of, is_local
from durable_chat.http.tokens import issue
from durable_chat.sessions.sessions import session_path
from tests.conftest import Serve
from tests.servers import Process, Server, start_app

JSON_BODY = {"Content-Type": "application/json"}
FOREIGN = {"Origin": "https://foreign.example"}


def ask(
    server: Process, method: str, path: str, headers: Mapping[str, str] | None = None, body: bytes = b""
) -> tuple[int, Mapping[str, str], bytes]:
    """Send one request. The response's header names are in lower case."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    try:
        connection.request(method, path, body or None, dict(headers or {}))
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    finally:
        connection.close()


# The rules.


@pytest.mark.parametrize(
    ("sent", "matches"),
    [
        (b"Bearer s3cret", True),
        (b"bearer s3cret", True),
        (b"Bearer  s3cret", True),
        (b"Bearer s3cre", False),
        (b"Bearer s3cret2", False),
        (b"Bearer", False),
        (b"Basic s3cret", False),
        (b"s3cret", False),
        (b"Bearer \xff\xfe", False),
        (b"", False),
        (None, False),
    ],
)
def test_bearer(sent: bytes | None, matches: bool) -> None:
    """A request is allowed only with the complete secret and the Bearer scheme, in upper or lower case."""
    assert bearer_matches(sent, "s3cret") is matches


@pytest.mark.parametrize(
    ("peer", "host", "local"),
    [
        ("127.0.0.1", b"127.0.0.1:4437", True),
        ("127.0.0.1", b"localhost", True),
        ("127.0.0.1", b"LOCALHOST:1", True),
        ("::1", b"[::1]:4437", True),
        ("::ffff:127.0.0.1", b"127.0.0.1", True),
        ("127.9.9.9", b"127.8.8.8:80", True),
        ("192.168.1.5", b"127.0.0.1:4437", False),
        ("", b"127.0.0.1:4437", False),
        ("127.0.0.1", None, False),
        ("127.0.0.1", b"", False),
        ("127.0.0.1", b"rebound.example:4437", False),
        ("127.0.0.1", b"localhost.example", False),
        ("127.0.0.1", b"localhost:4437@evil.example", False),
        ("127.0.0.1", b"127.0.0.1.evil.example", False),
        ("127.0.0.1", b"[::1", False),
        ("127.0.0.1", b"0.0.0.0:4437", False),
    ],
)
def test_local(peer: str, host: bytes | None, local: bool) -> None:
    """A request is local when both the peer's address and the requested host are loopback."""
    assert is_local(Caller(peer, host)) is local


@pytest.mark.parametrize("name", [b"forwarded", b"via", b"x-forwarded-for", b"x-forwarded-host", b"x-real-ip"])
def test_proxied_is_not_local(name: bytes) -> None:
    """A proxied request is not local, even if the proxy runs on this machine."""
    scope = {"client": ("127.0.0.1", 1), "headers": [(b"host", b"127.0.0.1"), (name, b"x")]}
    assert not is_local(caller_of(scope))


def test_header_twice_fits_nothing() -> None:
    """A second Host or Authorization header cannot override the first one."""
    scope = {"client": ("127.0.0.1", 1), "headers": [(b"host", b"127.0.0.1"), (b"host", b"localhost")]}
    assert not is_local(caller_of(scope))
    headers = [(b"authorization", b"Bearer s"), (b"authorization", b"Bearer s")]
    assert not bearer_matches(caller_of({"headers": headers}).authorization, "s")


@pytest.mark.parametrize(
    ("origin", "host", "same"),
    [
        (None, b"chat.example", True),
        (b"https://chat.example", b"chat.example", True),
        (b"https://chat.example", b"chat.example:443", True),
        (b"http://127.0.0.1:4437", b"127.0.0.1:4437", True),
        (b"http://[::1]:4437", b"[::1]:4437", True),
        (b"http://127.0.0.1:4437", b"127.0.0.1:4438", False),
        (b"https://chat.example", b"chat.example.evil", False),
        (b"https://foreign.example", b"chat.example", False),
        (b"null", b"null", False),
        (b"", b"chat.example", False),
        (b"https://foreign.example", None, False),
    ],
)
def test_same_origin(origin: bytes | None, host: bytes | None, same: bool) -> None:
    """
    A page is same-origin when its origin equals the requested host. A request without Origin does not come from a
    page.
    """
    assert is_same_origin(Caller("127.0.0.1", host, origin)) is same


def test_same_origin_behind_a_proxy() -> None:
    """Behind a proxy that changes the Host, only `Sec-Fetch-Site: same-origin` counts as same-origin."""
    foreign = b"https://chat.example"
    assert is_same_origin(Caller("", b"127.0.0.1:4437", foreign, fetch_site=b"same-origin"))
    assert not is_same_origin(Caller("", b"127.0.0.1:4437", foreign, fetch_site=b"same-site"))


@pytest.mark.parametrize(
    ("origin", "allowed", "answer"),
    [
        (b"https://a.example", ("https://a.example",), "https://a.example"),
        (b"https://b.example", ("https://a.example",), None),
        (b"https://b.example", ("*",), "*"),
        (b"https://a.example", ("*", "https://a.example"), "https://a.example"),
        (None, ("*",), None),
        (b"https://a.example", (), None),
    ],
)
def test_allowed_origin(origin: bytes | None, allowed: tuple[str, ...], answer: str | None) -> None:
    """The response names an origin that is on the list. `*` allows every origin."""
    assert allowed_origin(origin, allowed) == answer


def test_own_key_headers() -> None:
    """A preflight may ask for custom key headers, and this allows no other header."""
    allowed = allowed_chat_headers("X-BYOK-openai, x-evil, x-byok-\r\nset-cookie")
    assert allowed.endswith(", x-byok-openai")
    assert "evil" not in allowed
    assert "cookie" not in allowed


# Over the wire.


@pytest.fixture
def secret_server(serve: Serve) -> Server:
    return serve(DURABLE_CHAT_STORE="memory://", DS_SECRET="s3cret")


@pytest.fixture
def plain_server(serve: Serve) -> Server:
    return serve(DURABLE_CHAT_STORE="memory://", DURABLE_CHAT_ALLOW_ORIGINS="https://app.example")


@pytest.mark.parametrize("prefix", ["/v1/stream/x", "/streams/x", "/v1/streams/x"])
@pytest.mark.parametrize("method", ["PUT", "POST", "GET", "HEAD", "DELETE"])
def test_secret_is_needed(secret_server: Server, prefix: str, method: str) -> None:
    """With a secret set, every method on every prefix requires it, on loopback too."""
    for headers in ({}, {"Authorization": "Bearer wrong"}):
        status, answer, _ = ask(secret_server, method, prefix, headers)
        assert status == 401
        assert answer["www-authenticate"] == "Bearer"


def test_secret_opens(secret_server: Server) -> None:
    """With the secret, the routes work from any host name, through proxies and for any origin."""
    headers = {"Authorization": "Bearer s3cret", "Host": "public.example", "Via": "1.1 proxy", **FOREIGN}
    status, answer, _ = ask(secret_server, "PUT", "/v1/stream/x", headers)
    assert status == 201
    assert answer["access-control-allow-origin"] == "*"
    assert "stream-next-offset" in answer["access-control-expose-headers"].lower()
    assert answer["cross-origin-resource-policy"] == "cross-origin"
    assert answer["x-content-type-options"] == "nosniff"


def test_preflight_with_secret(secret_server: Server) -> None:
    """A browser's preflight needs no secret, and its response lists what the browser may send."""
    headers = {**FOREIGN, "Access-Control-Request-Method": "PUT", "Access-Control-Request-Headers": "stream-ttl"}
    status, answer, _ = ask(secret_server, "OPTIONS", "/v1/stream/x", headers)
    assert status == 204
    assert answer["access-control-allow-origin"] == "*"
    assert {"PUT", "DELETE", "HEAD"} <= set(answer["access-control-allow-methods"].split(", "))
    allowed = {name.strip() for name in answer["access-control-allow-headers"].lower().split(",")}
    assert {"authorization", "if-none-match", "stream-ttl", "producer-id", "stream-forked-from"} <= allowed


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "rebound.example"},
        {"X-Forwarded-For": "203.0.113.9"},
        {"Forwarded": "for=203.0.113.9"},
        {"Via": "1.1 proxy"},
    ],
)
def test_without_secret_only_loopback(plain_server: Server, headers: Mapping[str, str]) -> None:
    """Without a secret, requests that do not clearly come from this machine are refused, including preflights."""
    for method in ("PUT", "GET", "OPTIONS"):
        status, _, body = ask(plain_server, method, "/v1/stream/x", headers)
        assert status == 403
        assert b'"loopback_only"' in body
    assert ask(plain_server, "PUT", "/v1/stream/x")[0] == 201


def test_without_secret_no_foreign_page(plain_server: Server) -> None:
    """Without a secret, a page of another origin cannot write, and no response has CORS headers that let it read."""
    assert ask(plain_server, "PUT", "/v1/stream/x", {"Content-Type": "text/plain"})[0] == 201
    for method in ("POST", "PUT", "DELETE"):
        status, _, body = ask(plain_server, method, "/v1/stream/x", {**FOREIGN, "Content-Type": "text/plain"}, b"x")
        assert status == 403
        assert b'"forbidden_origin"' in body
    for method in ("GET", "OPTIONS"):
        assert "access-control-allow-origin" not in ask(plain_server, method, "/v1/stream/x", FOREIGN)[1]


def test_api_refuses_foreign_origin(plain_server: Server) -> None:
    """A page of a foreign origin cannot send, stop or delete, and its preflight is refused."""
    for method, path in (("POST", "/api/chat?id=a"), ("POST", "/api/chat-stop?id=a"), ("DELETE", "/api/chat?id=a")):
        status, answer, body = ask(plain_server, method, path, FOREIGN, b"{}")
        assert status == 403
        assert b'"forbidden_origin"' in body
        assert "access-control-allow-origin" not in answer
    preflight = {**FOREIGN, "Access-Control-Request-Method": "POST"}
    assert ask(plain_server, "OPTIONS", "/api/chat?id=a", preflight)[0] == 403


def test_api_allows_listed_origin(plain_server: Server) -> None:
    """An origin on the list gets CORS headers on preflights, responses and errors."""
    origin = {"Origin": "https://app.example"}
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type, x-byok-openai"}
    status, answer, _ = ask(plain_server, "OPTIONS", "/api/chat?id=a", {**origin, **asked})
    assert status == 204
    assert "DELETE" in answer["access-control-allow-methods"]
    allowed = answer["access-control-allow-headers"].lower()
    for name in ("content-type", "authorization", "x-run-id", "x-api-key", "idempotency-key", "x-byok-openai"):
        assert name in allowed
    status, answer, _ = ask(plain_server, "POST", "/api/chat?id=a", origin, b"this is no JSON")
    assert status in (400, 415)
    assert answer["access-control-allow-origin"] == "https://app.example"
    assert answer["access-control-allow-credentials"] == "true"
    assert "x-run-id" in answer["access-control-expose-headers"].lower()
    assert "origin" in answer["vary"].lower()


def test_metrics(secret_server: Server, plain_server: Server) -> None:
    """Metrics are available from this machine or with the secret."""
    away = {"X-Forwarded-For": "203.0.113.9"}
    assert ask(secret_server, "GET", "/metrics")[0] == 200
    assert ask(secret_server, "GET", "/metrics", away)[0] == 401
    assert ask(secret_server, "GET", "/metrics", {**away, "Authorization": "Bearer s3cret"})[0] == 200
    assert ask(plain_server, "GET", "/metrics", away)[0] == 403
    _, answer, body = ask(plain_server, "GET", "/metrics")
    assert answer["content-type"].startswith("text/plain")
    assert b"durable_chat_requests_total{" in body


@pytest.mark.parametrize("path", ["/", "/healthz", "/readyz", "/metrics", "/nothing", "/api/nothing", "/v1/stream/x"])
def test_nosniff_everywhere(server: Server, path: str) -> None:
    """Every response has `X-Content-Type-Options: nosniff`."""
    assert ask(server, "GET", path)[1]["x-content-type-options"] == "nosniff"


# Rules for every request, under either HTTP server.

ROUTES = ("/", "/healthz", "/metrics", "/api/chat-snapshot?id=a", "/v1/stream/x", "/nothing")
BAD_HOSTS = (
    *((), ("localhost", "localhost"), ("localhost", "evil.example"), ("localhost/evil",), ("local host",)),
    *(("u@localhost",), ("localhost,evil.example",), ("localhost:x",), ("[::1",)),
)


def raw(port: int, request: bytes) -> bytes:
    """Send these bytes and return all bytes that come back until the server closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(request)
        return b"".join(iter(lambda: connection.recv(1 << 16), b""))


@pytest.fixture(params=["ours", "ours on uvicorn's HTTP", "uvicorn"])
def any_server(request: pytest.FixtureRequest, tmp_path: Path, processes: list[Process]) -> Process:
    """`serve`, and the application under a server with its own request parser."""
    if request.param == "uvicorn":
        source = "from durable_chat import DurableChat\nchat = DurableChat('memory://', model='demo', protocol=True)\n"
        return start_app(tmp_path / "mounted", source, processes)
    serve: Serve = request.getfixturevalue("serve")
    chosen = {} if request.param == "ours" else {"DURABLE_CHAT_HTTP": "uvicorn"}
    return serve(DURABLE_CHAT_STORE="memory://", **chosen)


def test_a_request_names_one_host(any_server: Process) -> None:
    """An HTTP/1.1 request without a Host, with two, or with an invalid one is refused at every address."""
    for path in ROUTES:
        for hosts in BAD_HOSTS:
            lines = "".join(f"Host: {host}\r\n" for host in hosts)
            answer = raw(any_server.port, f"GET {path} HTTP/1.1\r\n{lines}Connection: close\r\n\r\n".encode())
            assert answer.startswith(b"HTTP/1.1 400 "), (path, hosts, answer)


HOST = b"Host: localhost\r\nContent-Type: text/plain\r\nConnection: close\r\n"


def test_trailers_say_nothing(any_server: Process) -> None:
    """Trailers cannot close a stream, number an append or set an origin."""
    assert raw(any_server.port, b"PUT /v1/stream/t HTTP/1.1\r\n" + HOST + b"\r\n").startswith(b"HTTP/1.1 201")
    head = b"POST /v1/stream/t HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n"
    body = b"1\r\na\r\n0\r\nStream-Closed: true\r\nProducer-Id: p\r\nProducer-Epoch: 0\r\nProducer-Seq: 0\r\n\r\n"
    answers = [expecting(any_server.port, head + b"Expect: 100-continue\r\n\r\n", body)]
    if isinstance(any_server, Server):  # uvicorn's parser adds trailers to the headers when everything arrives at once
        answers += [raw(any_server.port, head + b"\r\n" + body), raw(any_server.port, head + b"\r\n" + body)]
    for answer in answers:
        assert answer.startswith(b"HTTP/1.1 204"), answer
        assert b"stream-closed" not in answer.lower()
    status, headers, _ = ask(any_server, "HEAD", "/v1/stream/t")
    assert status == 200
    assert "stream-closed" not in headers


def expecting(port: int, head: bytes, body: bytes) -> bytes:
    """Send the body once the application asks for it, and return the response."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(head)
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 100 ")
        connection.sendall(body)
        return b"".join(iter(lambda: connection.recv(1 << 16), b""))


def test_encoded_bodies_are_refused(any_server: Process) -> None:
    """A body with a content encoding is refused, and nothing of it is written."""
    ask(any_server, "PUT", "/v1/stream/c", JSON_BODY)
    for path in ("/v1/stream/c", "/api/chat?id=c"):
        for coding in ("gzip", "br", "identity, gzip", "GZIP"):
            headers = {**JSON_BODY, "Content-Encoding": coding}
            status, answer, body = ask(any_server, "POST", path, headers, b'{"messages": []}')
            assert (status, json.loads(body)["code"]) == (415, "bad_content_encoding")
            assert answer["accept-encoding"] == "identity"
    assert ask(any_server, "GET", "/v1/stream/c")[2] == b"[]"
    assert ask(any_server, "POST", "/v1/stream/c", {**JSON_BODY, "Content-Encoding": "identity"}, b"{}")[0] == 204


def test_what_says_what_is_written_comes_once(any_server: Process) -> None:
    """A header that controls a write may not be repeated: a server in between might have checked the other value."""
    assert raw(any_server.port, b"PUT /v1/stream/d HTTP/1.1\r\n" + HOST + b"\r\n").startswith(b"HTTP/1.1 201")
    sequences = b"Stream-Seq: 1\r\nStream-Seq: 2\r\n"
    for twice in (b"Stream-Closed: no\r\nStream-Closed: true\r\n", sequences, b"Content-Type: a/b\r\n"):
        request = b"POST /v1/stream/d HTTP/1.1\r\n" + HOST + twice + b"Content-Length: 1\r\n\r\na"
        assert raw(any_server.port, request).startswith(b"HTTP/1.1 400 ")
    assert ask(any_server, "GET", "/v1/stream/d")[2] == b""


SESSIONS = (
    "x" * 256,
    "\N{GRINNING FACE}" * 256,
    "/" * 256,
    "%" * 256,
    "\N{LATIN SMALL LETTER E WITH ACUTE}" * 256,
    "..",
)


def test_a_session_has_a_stream(server: Server) -> None:
    """Each session id that the chat accepts names a stream that the protocol's routes accept."""
    message = {"id": "m", "role": "user", "parts": [{"type": "text", "content": "hello"}]}
    body = json.dumps({"messages": [message]}).encode()
    for session in SESSIONS:
        posted = ask(server, "POST", f"/api/chat?mode=await&id={quote(session, safe='')}", JSON_BODY, body)
        assert posted[0] == 200, posted
        status, _, read = ask(server, "GET", "/v1/stream/" + quote(session_path(session), safe=""))
        assert status == 200
        assert b"RUN_FINISHED" in read
    assert ask(server, "POST", f"/api/chat?id={'x' * 257}", JSON_BODY, body)[0] == 400


# Requests to a chat without authorization.

REBOUND = {"Host": "evil.example:4437", "Origin": "http://evil.example:4437"}
NOT_LOCAL: tuple[dict[str, str], ...] = (
    REBOUND,
    {**REBOUND, "Sec-Fetch-Site": "same-origin"},
    {"Host": "evil.example"},
    {"X-Forwarded-For": "203.0.113.9"},
    {"X-Forwarded-Proto": "https"},
    {"Forwarded": "for=203.0.113.9"},
    {"Via": "1.1 proxy"},
    {"X-Real-IP": "203.0.113.9"},
    {"CF-Connecting-IP": "203.0.113.9"},
    {"Origin": "https://chat.example", "Sec-Fetch-Site": "same-origin"},
)
TURN = json.dumps({"messages": [{"id": "m", "role": "user", "parts": [{"type": "text", "content": "Hi"}]}]}).encode()
CHAT_ROUTES = (
    ("POST", "/api/chat?id=a", TURN),
    ("GET", "/api/chat-snapshot?id=a", b""),
    ("GET", "/api/chat-stream?id=a", b""),
    ("POST", "/api/chat-stop?id=a", b""),
    ("DELETE", "/api/chat?id=a", b""),
    ("GET", "/api/nothing", b""),
)
UNGUARDED_ROUTES = (*CHAT_ROUTES, ("PUT", "/v1/stream/x", b""), ("GET", "/streams/x", b""), ("GET", "/metrics", b""))


def test_unguarded_only_this_machine_is_served(any_server: Process) -> None:
    """
    Without authorization, all routes refuse requests by DNS rebinding and through a proxy, and the response says what
    to set. The page and the probes are open to everybody.
    """
    for headers in NOT_LOCAL:
        for method, path, body in UNGUARDED_ROUTES:
            status, _, said = ask(any_server, method, path, {**JSON_BODY, **headers}, body)
            assert (status, json.loads(said)["code"]) == (403, "loopback_only"), (headers, method, path, said)
            assert "DS_SECRET" in json.loads(said)["error"]
            if path.startswith("/api/"):
                assert "DURABLE_CHAT_TOKEN_SECRET" in json.loads(said)["error"]
                assert "authorize=" in json.loads(said)["error"]
        for path in ("/", "/healthz", "/readyz"):
            assert ask(any_server, "GET", path, headers)[0] == 200
    for method, path, _ in UNGUARDED_ROUTES:  # nginx's default requests to an upstream server
        answer = raw(any_server.port, f"{method} {path} HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n".encode())
        assert answer.startswith(b"HTTP/1.1 403 "), answer
    assert any_server.output.count("refused a request") == 1
    assert ask(any_server, "POST", "/api/chat?id=a", JSON_BODY, TURN)[0] == 202
    own = {"Origin": f"http://127.0.0.1:{any_server.port}", "Sec-Fetch-Site": "same-origin"}
    assert ask(any_server, "POST", "/api/chat-stop?id=a", own)[0] == 200


def test_a_peer_elsewhere_is_not_served_unguarded() -> None:
    """The peer's address, not the requested host name, decides whether a request is local."""
    for peer in ("192.0.2.7", "2001:db8::7", "", "testclient"):
        assert not is_local(Caller(peer, b"localhost"))


@pytest.mark.parametrize("guard", ["token", "secret", "open"])
def test_a_guarded_chat_is_served_to_others(serve: Serve, guard: str) -> None:
    """With tokens, with a secret, or with public access switched on, requests from other machines are answered."""
    token_secret = "a-secret-of-the-tests-long-enough"
    settings = {"token": {"DURABLE_CHAT_TOKEN_SECRET": token_secret}, "secret": {"DS_SECRET": "s3cret"}, "open": {}}
    server = serve(*(["--open"] if guard == "open" else []), **settings[guard])
    token = issue(token_secret, "a", ["send"], now_s=time.time(), ttl_s=60)
    bearer = {"token": f"Bearer {token}", "secret": "Bearer s3cret", "open": ""}[guard]
    away = {**JSON_BODY, "Host": "chat.example", "X-Forwarded-For": "203.0.113.9"}
    if guard != "open":
        assert ask(server, "POST", "/api/chat?id=a", {**away, "Authorization": "Bearer wrong"}, TURN)[0] in (401, 403)
        assert ask(server, "POST", "/api/chat?id=a", away, TURN)[0] in (401, 403)
    assert ask(server, "POST", "/api/chat?id=a", {**away, "Authorization": bearer}, TURN)[0] == 202


@pytest.mark.parametrize("said", ["authorize=lambda *_: True", "open=True"])
def test_a_guarded_application_is_served_to_others(tmp_path: Path, processes: list[Process], said: str) -> None:
    """An application that mounts the chat can allow remote requests with a hook or with `open=True`."""
    source = f"from durable_chat import DurableChat\nchat = DurableChat('memory://', model='demo', {said})\n"
    app = start_app(tmp_path / "mounted", source, processes)
    away = {**JSON_BODY, "Host": "chat.example", "X-Forwarded-For": "203.0.113.9"}
    assert ask(app, "POST", "/api/chat?id=a", away, TURN)[0] == 202
