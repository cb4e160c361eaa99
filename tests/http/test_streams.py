"""The protocol over HTTP on a real server, with invalid and hostile requests."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.conftest import Serve
from tests.lines import lines_of
from tests.servers import Server

JSON = {"Content-Type": "application/json"}
APPEND_BYTES_MAX = 16 * 1024 * 1024
ZERO = "0000000000000000_0000000000000000"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all tests that change nothing on it."""
    server = Server(tmp_path_factory.mktemp("server"), {"DURABLE_CHAT_MODEL": "demo", "DURABLE_CHAT_LONG_POLL_S": "1"})
    server.start()
    yield server
    server.kill()


@pytest.fixture
def client(shared: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=shared.url, timeout=20) as client:
        yield client


def raw_request(
    server: Server, target: str, method: str = "GET", body: bytes = b"", headers: str = ""
) -> tuple[int, bytes]:
    """Send a request exactly as written, because clients normalize paths."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        head = f"{method} {target} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n{headers}\r\n"
        connection.sendall(head.encode("latin-1") + body)
        answer = b""
        while part := connection.recv(65_536):
            answer += part
    return int(answer.split(b" ", 2)[1]), answer


@pytest.mark.parametrize(
    "path",
    [
        *(
            "",
            "/",
            "a//b",
            "a/",
            "//",
            ".",
            "..",
            "a/../b",
            "%2e%2e",
            "%2e",
            "a%2f..%2fb",
            "a%2F%2Fb",
            "%2Fetc%2Fpasswd",
        ),
        *("a%00b", "%0a", "a%7f", "%ff", "%zz", "%", "__ds", "__ds/subscriptions/x", "a/__ds", "%5f%5fds", "x" * 4097),
    ],
)
@pytest.mark.parametrize("prefix", ["/v1/stream/", "/streams/", "/v1/streams/"])
def test_paths_that_are_no_streams(shared: Server, prefix: str, path: str) -> None:
    """An invalid path reaches no stream and no file with any method, and the error is JSON."""
    for method, body in (("GET", b""), ("PUT", b""), ("POST", b"{}"), ("DELETE", b"")):
        headers = f"Content-Length: {len(body)}\r\nContent-Type: application/json\r\n"
        status, answer = raw_request(shared, prefix + path, method, body, headers)
        assert status == 400, answer
        assert json.loads(answer.split(b"\r\n\r\n", 1)[1])["code"] in ("bad_path", "reserved_path")


def test_both_prefixes_are_one_namespace(client: httpx.Client) -> None:
    """
    Both prefixes name the same streams. An encoded slash equals a plain one; an encoded percent sign is a percent
    sign.
    """
    assert client.put("/v1/stream/one/a%20b", headers=JSON, content="[1]").status_code == 201
    assert client.get("/streams/one%2Fa%20b").json() == client.get("/v1/streams/one/a%20b").json() == [1]
    assert client.get("/streams/one%252Fa%20b").status_code == 404
    fork = client.put("/streams/forked", headers={"Stream-Forked-From": "/v1/stream/one/a%20b"})
    assert fork.status_code == 201
    assert client.get("/v1/stream/forked").json() == [1]


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("offset=", "bad_offset"),
        ("offset=1", "bad_offset"),
        (f"offset={ZERO}&offset={ZERO}", "bad_offset"),
        ("offset=@PAST", "bad_offset"),
        ("offset=-1&live=websocket", "bad_live"),
        ("offset=-1&live=", "bad_live"),
        ("live=sse", "bad_offset"),
        ("live=long-poll", "bad_offset"),
        ("offset=%ff", "bad_request"),
    ],
)
def test_bad_queries(client: httpx.Client, query: str, code: str) -> None:
    """Each invalid query gets 400 and its own code."""
    created = client.put("/v1/stream/queries", headers=JSON, content="[1]")
    query = query.replace("@PAST", created.headers["Stream-Next-Offset"][:-1] + "9")
    response = client.get(f"/v1/stream/queries?{query}")
    assert (response.status_code, response.json()["code"]) == (400, code)


@pytest.mark.parametrize(
    "headers",
    [
        *({"Stream-TTL": value} for value in ("-1", "01", "1.5", "1e3", "+1", "x", "9" * 30)),
        *({"Stream-Expires-At": value} for value in ("x", "2026-13-01T00:00:00Z", "2026-01-01", "1767225600")),
        {"Stream-TTL": "1", "Stream-Expires-At": "2100-01-01T00:00:00Z"},
        {"Stream-Fork-Offset": ZERO},
        {"Stream-Forked-From": "/etc/passwd"},
        {"Stream-Forked-From": "/v1/stream/../x"},
        {"Content-Type": "no type at all"},
    ],
)
def test_bad_creates(client: httpx.Client, headers: dict[str, str]) -> None:
    """An invalid create is refused, and no stream exists afterwards."""
    assert client.put("/v1/stream/bad-create", headers={**JSON, **headers}).status_code == 400
    assert client.head("/v1/stream/bad-create").status_code == 404


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        (JSON, b"", 400),
        (JSON, b"[]", 400),
        (JSON, b"{", 400),
        (JSON, b'["\xff"]', 400),
        (JSON, b"[" * 100_000 + b"]" * 100_000, 400),
        (JSON, b'{"a":' * 100_000 + b"1" + b"}" * 100_000, 400),
        ({"Content-Type": ""}, b"{}", 400),
        ({"Content-Type": "text/plain"}, b"{}", 409),
        ({**JSON, "Producer-Id": "p"}, b"{}", 400),
        ({**JSON, "Producer-Id": "p", "Producer-Epoch": "0", "Producer-Seq": "9" * 17}, b"{}", 400),
        ({**JSON, "Producer-Id": "p" * 257, "Producer-Epoch": "0", "Producer-Seq": "0"}, b"{}", 400),
        ({**JSON, "Producer-Id": "p", "Producer-Epoch": "0", "Producer-Seq": "1"}, b"{}", 409),
        ({**JSON, "Stream-Seq": "s" * 257}, b"{}", 400),
    ],
)
def test_bad_appends_leave_the_stream_as_it_was(
    client: httpx.Client, headers: dict[str, str], body: bytes, status: int
) -> None:
    """An invalid append writes nothing."""
    client.put("/v1/stream/bad-append", headers=JSON, content="[1]")
    response = client.post("/v1/stream/bad-append", headers=headers, content=body)
    assert response.status_code == status, response.text
    assert set(response.json()) == {"error", "code"}
    assert client.get("/v1/stream/bad-append").json() == [1]


def test_a_body_over_the_limit_is_refused_before_it_is_read(shared: Server, client: httpx.Client) -> None:
    """
    A body over the limit is refused by its Content-Length before it is read, or without one as soon as it exceeds the
    limit. Nothing is written.
    """
    client.put("/v1/stream/large", headers=JSON)
    announced = f"Content-Type: application/json\r\nContent-Length: {APPEND_BYTES_MAX + 1}\r\n"
    assert raw_request(shared, "/v1/stream/large", "POST", b"[", announced)[0] == 413

    def endless() -> Iterator[bytes]:
        for _ in range(64):
            yield b"1" * (1024 * 1024)

    try:
        assert client.post("/v1/stream/large", headers=JSON, content=endless()).status_code == 413
    except httpx.WriteError:
        pass  # the server has closed the connection
    assert client.get("/v1/stream/large").json() == []


def test_the_largest_append_comes_back_whole(client: httpx.Client) -> None:
    """The largest append can be read back in consecutive parts."""
    body = b"[" + b",".join(b'"%07d%s"' % (n, b"x" * 1000) for n in range(16_000)) + b"]"
    assert len(body) < APPEND_BYTES_MAX
    client.put("/v1/stream/largest", headers=JSON)
    assert client.post("/v1/stream/largest", headers=JSON, content=body).status_code == 204
    got: list[str] = []
    offset = "-1"
    while True:
        response = client.get("/v1/stream/largest", params={"offset": offset})
        got += response.json()
        offset = response.headers["Stream-Next-Offset"]
        if "Stream-Up-To-Date" in response.headers:
            break
        assert "max-age" in response.headers["Cache-Control"]
    assert got == json.loads(body)


def test_every_boundary_may_be_read_from(client: httpx.Client) -> None:
    """
    A read may start at every message boundary, also inside one append, because every message of a JSON stream has an
    offset.
    """
    tail = client.put("/v1/stream/boundaries", headers=JSON, content="[0,1,2,3,4]").headers["Stream-Next-Offset"]
    for n in range(6):
        response = client.get(f"/v1/stream/boundaries?offset={ZERO if n == 0 else tail[:-1] + str(n)}")
        assert response.json() == list(range(n, 5))


@pytest.mark.parametrize("content_type", ["application/json", "application/octet-stream"])
def test_a_catch_up_beside_a_live_reader_gives_all_there_is(client: httpx.Client, content_type: str) -> None:
    """
    A catch-up read beside a live reader returns all messages in one response, from any offset, marked as up to date.
    """
    url, headers = f"/v1/stream/watched-{content_type[-4:]}", {"Content-Type": content_type}
    offsets = [client.put(url, headers=headers).headers["Stream-Next-Offset"]]
    with client.stream("GET", f"{url}?offset={ZERO}&live=sse") as watching:
        watched = watching.iter_bytes()
        next(watched)
        for n in range(7):
            answer = client.post(url, headers=headers, content=b"%d" % n)
            offsets.append(answer.headers["Stream-Next-Offset"])
            next(watched)  # each append has its own flush
        for at, offset in enumerate(offsets):
            for live in ("", "&live=long-poll")[: 1 if at == 7 else 2]:
                answer = client.get(f"{url}?offset={offset}{live}")
                wanted = list(map(str, range(at, 7)))
                json = content_type == "application/json"
                assert answer.text == (f"[{','.join(wanted)}]" if json else "".join(wanted))
                assert answer.headers["Stream-Up-To-Date"] == "true"
                assert answer.headers["Stream-Next-Offset"] == offsets[-1]


def test_a_long_poll_ends_with_news_or_without(client: httpx.Client) -> None:
    """A long-poll returns new messages, or 204 with the tail and a cursor when its time is over."""
    client.put("/v1/stream/poll", headers=JSON)
    response = client.get("/v1/stream/poll?offset=now&live=long-poll")
    assert response.status_code == 204
    assert response.headers["Stream-Up-To-Date"] == "true"
    assert response.headers["Stream-Cursor"].isdigit()
    client.post("/v1/stream/poll", headers=JSON, content="1")
    response = client.get(f"/v1/stream/poll?offset={response.headers['Stream-Next-Offset']}&live=long-poll")
    assert (response.status_code, response.json()) == (200, [1])


def test_sse_ends_cleanly_and_pings_meanwhile(serve: Serve) -> None:
    """After `sse_s` the response ends cleanly. A waiting reader gets pings before."""
    server = serve(DURABLE_CHAT_SSE_S="1", DURABLE_CHAT_SSE_PING_S="1")
    with httpx.Client(base_url=server.url, timeout=20) as client:
        client.put("/v1/stream/s", headers=JSON, content='[{"text":"a\\nb"}]')
        body = client.get("/v1/stream/s?offset=-1&live=sse").text
        assert body.startswith('event: data\ndata:[{"text":"a\\nb"}]\n\nevent: control\ndata:{')
    server = serve(DURABLE_CHAT_SSE_S="3", DURABLE_CHAT_SSE_PING_S="1")
    with httpx.Client(base_url=server.url, timeout=20) as client:
        client.put("/v1/stream/s", headers=JSON)
        assert ": ping\n\n" in client.get("/v1/stream/s?offset=-1&live=sse").text


def test_sse_ends_when_its_stream_is_deleted(client: httpx.Client) -> None:
    """When the stream is deleted the response ends, and the next request gets 404."""
    client.put("/v1/stream/deleted", headers=JSON, content="[1]")
    with client.stream("GET", "/v1/stream/deleted?offset=-1&live=sse") as response:
        lines = lines_of(response)
        assert next(lines) == "event: data"
        client.delete("/v1/stream/deleted")
        assert [line for line in lines if line.startswith("event: data")] == []
    assert client.get("/v1/stream/deleted").status_code == 404


def test_too_many_readers_of_one_stream_are_told_to_wait(serve: Serve) -> None:
    """A reader over the limit gets 429 with Retry-After. When a reader leaves, the next one is accepted."""
    server = serve(DURABLE_CHAT_READERS_PER_SESSION_MAX="2")
    url = "/v1/stream/s?offset=-1&live=sse"
    with httpx.Client(base_url=server.url, timeout=20) as client:
        client.put("/v1/stream/s", headers=JSON)
        with client.stream("GET", url) as one, client.stream("GET", url) as two:
            lines = [lines_of(one), lines_of(two)]
            assert [next(each) for each in lines] == ["event: control"] * 2
            refused = client.get(url)
            assert (refused.status_code, refused.json()["code"]) == (429, "too_many_readers")
            assert int(refused.headers["Retry-After"]) > 0
            client.post("/v1/stream/s", headers=JSON, content="1")
        assert client.get("/v1/stream/s").json() == [1]


def test_a_full_disk_stops_writing_and_loses_nothing(tmp_path: Path, serve: Serve) -> None:
    """
    On a full disk, writers get 503, readers still get all acknowledged messages, and these exist after a restart with
    free space. The test limits the size of the process's files to fill the disk.
    """
    limited = ("/bin/sh", "-c", 'ulimit -f 4096 && exec "$0" "$@"')

    server = Server(tmp_path / "limited", command=(*limited, sys.executable, "-m", "durable_chat"))
    server.start()
    acked = []
    with httpx.Client(base_url=server.url, timeout=20) as client:
        client.put("/v1/stream/s", headers=JSON)
        for n in range(200):
            response = client.post("/v1/stream/s", headers=JSON, content=json.dumps({"n": n, "text": "x" * 50_000}))
            if response.status_code != 204:
                break
            acked.append(n)
        assert response.status_code == 503, response.text
        assert response.json()["code"] == "store_failed"
        assert client.post("/v1/stream/s", headers=JSON, content="{}").status_code == 503
        assert client.put("/v1/stream/other", headers=JSON).status_code == 503
        assert read_numbers(client) == acked
        assert client.get("/readyz").json()["code"] == "store_failed"
    server.kill()
    again = Server(tmp_path / "limited")
    again.start()
    with httpx.Client(base_url=again.url, timeout=20) as client:
        assert read_numbers(client)[: len(acked)] == acked
        assert client.post("/v1/stream/s", headers=JSON, content="{}").status_code == 204
    again.kill()


def read_numbers(client: httpx.Client) -> list[int]:
    numbers: list[int] = []
    offset = "-1"
    while True:
        response = client.get("/v1/stream/s", params={"offset": offset})
        numbers += [message["n"] for message in response.json()]
        offset = response.headers["Stream-Next-Offset"]
        if "Stream-Up-To-Date" in response.headers:
            return numbers
