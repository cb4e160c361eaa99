"""A PUT that is answered without a task of its own gives the same response as one with a task."""

from __future__ import annotations

import pytest

from durable_chat.store.memory import MemoryBackend
from tests.http.test_connections import Server, connected
from tests.http.test_overload import answer_of, stream_server

TYPE = "Content-Type: application/json\r\n"
FORK = "Stream-Forked-From: /v1/stream/s\r\n"


async def answers(server: Server, path: str, headers: str, body: bytes, *, short: bool) -> list[object]:
    """Return status and headers of two equal PUT requests. A chunked body is not read ahead, so it needs a task."""
    framed = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if body else b"0\r\n\r\n"
    framing, sent = (f"Content-Length: {len(body)}", body) if short else ("Transfer-Encoding: chunked", framed)
    request = f"PUT /v1/stream/{path} HTTP/1.1\r\nHost: h:1\r\n{headers}{framing}\r\n\r\n".encode() + sent
    found: list[object] = []
    async with connected(server) as (reader, writer):
        for _ in range(2):
            writer.write(request)
            status, got = await answer_of(reader)
            got.pop("date", None)
            if "stream-next-offset" in got:  # the creation time and the next offset
                got["stream-next-offset"] = got["stream-next-offset"].partition("_")[2]
            found.append((status, {name: value.replace(path, "PATH") for name, value in got.items()}))
    return found


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        (TYPE, b"", 201),
        (TYPE, b"[1,2]", 201),
        (TYPE + "Stream-TTL: 60\r\n", b"", 201),
        (TYPE + "Stream-Closed: true\r\n", b"1", 201),
        ("", b"bytes", 201),
        (FORK, b"", 201),
        (FORK, b"1", 400),
        (TYPE, b"{", 400),
        (TYPE + "Stream-TTL: x\r\n", b"", 400),
    ],
    ids=["empty", "messages", "ttl", "closed", "no type", "fork", "untyped fork", "no JSON", "no ttl"],
)
async def test_a_put_is_answered_alike_either_way(headers: str, body: bytes, status: int) -> None:
    """Both ways answer alike: the first request creates or is refused, the second finds the stream."""
    async with stream_server(MemoryBackend()) as (server, _, _):
        short = await answers(server, "short", headers, body, short=True)
        long = await answers(server, "long", headers, body, short=False)
    assert short == long
    assert [answer[0] for answer in short] == [status, 200 if status == 201 else status]  # type: ignore[index] # pairs
