"""
Generators of the bytes that a client or an attacker may send over one connection. The same seed gives the same bytes.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from durable_chat.http.server.framing import HEAD_BYTES_MAX

HOST = b"Host: localhost\r\n"
METHODS = (b"GET", b"POST", b"PUT", b"HEAD", b"DELETE", b"OPTIONS", b"PATCH")
TARGETS = (b"/", b"/a", b"/a/b?c=d", b"/a%20b", b"/a?", b"//a", b"/a?b?c", b"/;p", b"/a?q=http://x/")
HEADERS = (
    *(b"Accept: */*", b"X-A:b", b"X-A: ", b"X-A:", b"X-A:   padded", b"X-A: a, b", b"Cookie: a=b; c=d", b"X-A: \xe9"),
    *(b"Connection: keep-alive", b"Content-Type: text/plain", b"x-!#$%&'*+.^_`|~: token", b"X-A: a\tb"),
)
BODIES = (
    b"",
    b"a",
    b"hello",
    b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"\r\n\r\n",
    bytes(range(256)),
    b"x" * 5000,
)

ODD_TARGETS = (
    *(b"*", b"http://localhost/a?b", b"http://other/a", b"https://localhost", b"HTTP://LOCALHOST/", b"localhost:80"),
    *(b"ftp://localhost/", b"http://u@localhost/", b"/a#b", b"/a#b?c", b"/\xff", b"/a b", b"", b"a", b"?a", b"/a\tb"),
    *(
        b"/\x00",
        b"/\x7f",
        b"http:///a",
        b"//localhost/a",
        b"http://localhost#a",
        b"http://localhost?a",
        b"/a\\b",
        b'/<>"{}',
    ),
)
ODD_METHODS = (
    b"CONNECT",
    b"get",
    b"FOO",
    b"G ET",
    b"",
    b" GET",
    b"GET\t",
    b"PRI",
    b"SOURCE",
    b"M-SEARCH",
    b"G@T",
    b"TRACE",
)
ODD_VERSIONS = (
    *(
        b"HTTP/1.0",
        b"HTTP/1.2",
        b"HTTP/2.0",
        b"HTTP/0.9",
        b"http/1.1",
        b"HTTP/1.1 ",
        b" HTTP/1.1",
        b"HTTP/11",
        b"",
        b"X",
    ),
    *(b"HTTP/1.10", b"HTTP/1,1", b"HTTP/3.0", b"HTTPS/1.1", b"HTTP/1.1\t", b"RTSP/1.0", b"ICE/1.0"),
)
ODD_HEADERS = (
    *(b"Transfer-Encoding: chunked", b"Transfer-Encoding: gzip, chunked", b"Transfer-Encoding: identity"),
    *(b"Transfer-Encoding : chunked", b"Transfer-Encoding:\tchunked", b"Transfer-Encoding: chunked, chunked"),
    *(b"transfer-encoding: CHUNKED", b"Transfer-Encoding: \x0bchunked", b"Transfer-Encoding: xchunked"),
    *(b"Transfer-Encoding: chunked,", b"Transfer-Encoding:", b"Transfer-Encoding: chunked;q=1", b"TE: trailers"),
    *(b"Transfer_Encoding: chunked", b"X: y\r\n Transfer-Encoding: chunked", b"Transfer-Encoding: chunked \t"),
    *(
        b"Content-Length: 0",
        b"Content-Length: 5",
        b"Content-Length: +5",
        b"Content-Length: -1",
        b"Content-Length: 5, 5",
    ),
    *(
        b"Content-Length: 0x5",
        b"Content-Length: 5 5",
        b"Content-Length: ",
        b"Content-Length: 05",
        b"Content-Length: 5\t",
    ),
    *(b"Content-Length: 99999999999999999999", b"Content-Length : 5", b"Content-Length: 5;a", b"Content-Length: \xb2"),
    *(b"content-length: 3", b"Content-Length: 18446744073709551616", b"Content-Length: 1_0", b"Content-Length: 5\x0c"),
    *(
        b"X-A: b\r\n folded",
        b" leading: space",
        b"\tX: y",
        b"X : y",
        b": y",
        b"X",
        b"X-A: a\x00b",
        b"X-A: a\rb",
        b"X-A: a\nB: c",
    ),
    *(
        b"X-A: a\x0bb",
        b"X-A: a\x7fb",
        b"X-A: \x01",
        b"X(A): b",
        b"X-\xe9: b",
        b"X-A: b \t ",
        b"X\x00: b",
        b"\x0bX: b",
        b"X-A: b\x0c",
    ),
    *(b"Host: other", b"Host:", b"Host: localhost, other", b"Host: a b", b"Host: u@localhost", b"hOST: localhost"),
    *(
        b"Expect: 100-continue",
        b"Expect: 100-Continue",
        b"Expect: more",
        b"Expect:",
        b"Expect: 100-continue, 100-continue",
    ),
    *(
        b"Connection: close",
        b"Connection: Upgrade\r\nUpgrade: h2c",
        b"Connection: Upgrade\r\nUpgrade: websocket",
        b"Upgrade: h2c",
    ),
    *(
        b"Connection: upgrade, close\r\nUpgrade: x",
        b"Connection: keep-alive, close",
        b"Connection: TE, close",
        b"Connection:",
    ),
    *(
        b"Proxy-Connection: close",
        b"HTTP2-Settings: AAMAAABkAAQAAP__",
        b"Connection: clos\xe9",
        b"Connection: close\r\nConnection: keep-alive",
    ),
)
ODD_SIZES = (
    *(
        b"-1",
        b"0x1",
        b"+1",
        b"",
        b" 1",
        b"1 ",
        b"g",
        b"ffffffffffffffff",
        b"fffffffffffffffff",
        b"00000000000000000001",
    ),
    *(
        b"1;a=b",
        b'1;a="b"',
        b"1;a=\x00",
        b"1;\n",
        b"1;a\rb",
        b"1 ;a",
        b"1\t",
        b"1;",
        b'1;a="\xe9"',
        b"1;a=b;c",
        b"1_0",
        b"\xb9",
    ),
)
TRAILERS = (
    *(
        b"X-T: u\r\n",
        b"Stream-Closed: true\r\n",
        b"Content-Length: 5\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Host: other\r\n",
    ),
    *(
        b"Expect: 100-continue\r\n",
        b"X: y\r\n z\r\n",
        b"X\r\n",
        b"X : y\r\n",
        b"X: a\x00\r\n",
        b"Connection: close\r\n",
        b"X: a\n",
        b"Upgrade: h2c\r\n",
    ),
)
BEFORE = (
    b"\r\n",
    b"\r\n\r\n",
    b"\n",
    b"\r",
    b" ",
    b"\x00",
    b"\x16\x03\x01\x02\x00\x01",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
)
INSERTED = (
    b"\r",
    b"\n",
    b"\r\n",
    b" ",
    b"\t",
    b"\x00",
    b":",
    b"\x0b",
    b"\x0c",
    b"\xff",
    b"0",
    b",",
    b";",
    b"\x7f",
    b"\x85",
)


def plain(rng: random.Random) -> bytes:
    """A request that every server accepts and reads in the same way."""
    method = rng.choice(METHODS)
    lines = [method + b" " + rng.choice(TARGETS) + b" HTTP/1.1", HOST[:-2]]
    lines += rng.sample(HEADERS, rng.randrange(4))
    if method in (b"GET", b"HEAD", b"OPTIONS") or rng.random() < 0.2:
        return b"\r\n".join(lines) + b"\r\n\r\n"
    body = rng.choice(BODIES)
    if rng.random() < 0.5:
        rng.shuffle(lines[1:])
        return b"\r\n".join([*lines, b"Content-Length: %d" % len(body)]) + b"\r\n\r\n" + body
    return b"\r\n".join([*lines, b"Transfer-Encoding: chunked"]) + b"\r\n\r\n" + chunked(rng, body)


def chunked(rng: random.Random, body: bytes, trailers: bytes = b"") -> bytes:
    pieces = []
    while body:
        size = rng.randint(1, len(body))
        head = rng.choice((b"%x", b"%X", b"0%x")) % size
        pieces.append(head + b"\r\n" + body[:size] + b"\r\n")
        body = body[size:]
    return b"".join(pieces) + b"0\r\n" + trailers + b"\r\n"


def odd_line(rng: random.Random) -> bytes:
    """A request with an unusual first line."""
    method, target, version = rng.choice(METHODS), rng.choice(TARGETS), b"HTTP/1.1"
    choice = rng.randrange(4)
    if choice == 0:
        method = rng.choice(ODD_METHODS)
    elif choice == 1:
        version = rng.choice(ODD_VERSIONS)
    else:
        target = rng.choice(ODD_TARGETS)
    space = rng.choice((b" ", b" ", b" ", b"  ", b"\t"))
    return method + space + target + b" " + version + b"\r\n" + HOST + b"\r\n"


def odd_headers(rng: random.Random) -> bytes:
    """A request with one to three unusual headers and perhaps a body."""
    lines = [rng.choice(METHODS) + b" /o " + rng.choice((b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.0"))]
    more = rng.choices(ODD_HEADERS, k=rng.randint(1, 3))
    if rng.random() < 0.9:
        more.append(HOST[:-2])
    if rng.random() < 0.3:
        more.append(rng.choice((b"Content-Length: 5", b"Transfer-Encoding: chunked")))
    rng.shuffle(more)
    end = rng.choice((b"\r\n",) * 8 + (b"\n", b"\r"))
    return end.join([*lines, *more]) + end + end + rng.choice((b"", b"hello", chunked(rng, b"hello")))


def odd_chunks(rng: random.Random) -> bytes:
    """A chunked body with unusual sizes, ends or trailers."""
    head = b"POST /c HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n"
    if rng.random() < 0.2:
        head += rng.choice((b"Trailer: X-T\r\n", b"Expect: 100-continue\r\n", b"Connection: close\r\n"))
    choice = rng.randrange(3)
    if choice == 0:
        body = rng.choice(ODD_SIZES) + rng.choice((b"\r\n", b"\r\n", b"\n", b"\r")) + b"a\r\n0\r\n\r\n"
    elif choice == 1:
        body = chunked(rng, b"hello", b"".join(rng.choices(TRAILERS, k=rng.randint(1, 3))))
    else:
        end = rng.choice((b"\n", b"\r", b"", b"\n\r", b"\r\n ", b"X"))
        body = b"1\r\na" + end + b"0" + rng.choice((b"\r\n\r\n", b"\n\n", b"\r\n", b"\r\n\n"))
    return head + b"\r\n" + body


def huge(rng: random.Random) -> bytes:
    """A request head that is far over or just under the size limit."""
    size = rng.choice((HEAD_BYTES_MAX // 2, 2 * HEAD_BYTES_MAX))
    return rng.choice(
        (
            b"GET /" + b"a" * size + b" HTTP/1.1\r\n" + HOST + b"\r\n",
            b"GET / HTTP/1.1\r\n" + HOST + b"X-A: " + b"a" * size + b"\r\n\r\n",
            b"GET / HTTP/1.1\r\n" + HOST + b"X-A: b\r\n" * rng.choice((150, 400)) + b"\r\n",
        )
    )


def mutated(rng: random.Random) -> bytes:
    """A request in which a few bytes were inserted, removed or changed."""
    data = bytearray(rng.choice((plain, plain, odd_chunks))(rng))
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(min(len(data), 400))
        choice = rng.randrange(3)
        if choice == 0:
            data[at:at] = rng.choice(INSERTED)
        elif choice == 1:
            del data[at : at + rng.randint(1, 3)]
        else:
            data[at : at + 1] = rng.choice(INSERTED)
        if not data:
            return b"\r"
    return bytes(data)


def before(rng: random.Random) -> bytes:
    return rng.choice(BEFORE) + plain(rng)


ODD: tuple[Callable[[random.Random], bytes], ...] = (
    *(odd_line, odd_line, odd_headers, odd_headers, odd_headers, odd_headers, odd_chunks, odd_chunks),
    *(mutated, mutated, mutated, before),
)


def connection(rng: random.Random) -> bytes:
    """One to four requests, of which at most one is unusual. The last one may be cut off."""
    requests = [plain(rng) for _ in range(rng.randint(0, 3))]
    requests.insert(rng.randint(0, len(requests)), rng.choice(ODD)(rng))
    data = b"".join(requests)
    return data[: rng.randint(1, len(data))] if rng.random() < 0.1 else data


def cut(rng: random.Random, data: bytes) -> list[bytes]:
    """The same bytes in up to eight pieces."""
    places = sorted(rng.choices(range(len(data) + 1), k=rng.randint(1, 7)))
    return [piece for piece in (data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)) if piece]
