"""
Bytes as our connection reads them, compared with how h11 and uvicorn do: made by a seed, the same in each run.

`scripts/test tests/http/test_parsing.py --parsing-cases 100000 --parsing-seed 7` looks for longer, and elsewhere.
"""

from __future__ import annotations

import logging
import random
import re
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import pytest

from tests.http import made_requests as made
from tests.http.readings import Asked, Reading, answers_of, read_by, read_by_bare_h11

PIECES_MAX = 700
"""Longer than this, a connection is cut at random places only, and not at each byte."""


class Leniency(NamedTuple):
    """What we read and h11 refuses, or reads as something else: why, and how h11 is brought to our reading."""

    why: str
    bring: Callable[[bytes], bytes]


# At the beginning of a request. Neither moves the end of a request or a header.
LENIENCIES = {
    "empty lines before a request": Leniency(
        "RFC 9112, 2.2: a server should ignore them; old clients send one behind a body",
        lambda data: data.lstrip(b"\r\n"),
    ),
    "several spaces around the target": Leniency(
        "RFC 9112, 3: a recipient may take them for one; llhttp does, and a target holds none",
        lambda data: re.sub(rb"\A([A-Z-]+) +([^ \r\n]+) +(?=[A-Z]+/)", rb"\1 \2 ", data),
    ),
}
LENIENCIES["RTSP/ and ICE/ in the place of HTTP/"] = Leniency(
    "llhttp reads three protocols by one grammar and does not say which it was; their messages are framed alike",
    lambda data: re.sub(rb"\A([A-Z-]+ [^ \r\n]+) (?:RTSP|ICE)/", rb"\1 HTTP/", data),
)
# In a target, as h11 has it.
TARGETS = {
    "a whole URL": Leniency(
        "RFC 9112, 3.2.2: a server must take one; its host is the one of Host, or it is refused",
        lambda target: re.sub(rb"(?i)\Ahttps?://[^/?#]*", b"", target) or b"/",
    ),
    "a query without a path": Leniency("behind the host of a whole URL", lambda t: b"/" + t if t[:1] == b"?" else t),
    "a fragment": Leniency("RFC 3986, 3.5: it is the client's own", lambda target: target.partition(b"#")[0]),
    "an empty query": Leniency("ASGI knows no difference", lambda target: target.removesuffix(b"?")),
}


def tidy(data: bytes) -> bytes:
    for leniency in LENIENCIES.values():
        data = leniency.bring(data)
    return data


def as_ours(asked: Asked) -> Asked:
    """A request of another reader in the form that our scope has."""
    target = asked.target
    for leniency in TARGETS.values():
        target = leniency.bring(target)
    # h11 writes the one coding that there is in small letters.
    coded = [(n, v.lower() if n == b"transfer-encoding" else v) for n, v in asked.headers]
    return asked._replace(target=target, headers=tuple(coded))


def seen(reading: Reading) -> list[Asked]:
    return [as_ours(asked) for asked in reading.seen]


def by_h11(data: bytes) -> Reading:
    reading = read_by_bare_h11(data, tidy)
    return replace(reading, seen=seen(reading))


def without_faults(theirs: Asked, ours: Asked) -> Asked:
    """
    A request as uvicorn's protocol with httptools hands it over, where that is known to be wrong: it adds the trailers
    to the headers, keeps the spaces behind a value, and loses the body of a request for an upgrade. h11, which is the
    measure, does none of it.
    """
    headers = [(name, value.rstrip()) for name, value in theirs.headers]
    if any(value == b"chunked" for name, value in headers if name == b"transfer-encoding"):
        headers = headers[: len(ours.headers)]
    asks = any(name == b"upgrade" for name, _ in headers)
    return theirs._replace(headers=tuple(headers), body=ours.body if asks and not theirs.body else theirs.body)


def of_seed(request: pytest.FixtureRequest, part: str, share: float) -> list[random.Random]:
    seed, cases = request.config.getoption("--parsing-seed"), request.config.getoption("--parsing-cases")
    return [random.Random(f"{seed}-{part}-{case}") for case in range(max(1, int(cases * share)))]


@pytest.fixture(autouse=True)
def quiet_uvicorn() -> None:
    for name in ("uvicorn.error", "uvicorn.access"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def told(reading: Reading) -> object:
    """
    What must not depend on how the bytes were cut. Of two faults in a request, which is told may: our parser hands a
    header over when it has all of it, or at the end of a piece.
    """
    answers = [answer.number for answer in answers_of(reading.written)]
    return reading.seen, answers, reading.end


def check_ours(ours: Reading, data: bytes) -> None:
    assert not ours.wrong, (ours.wrong, data)
    answers = answers_of(ours.written)
    numbers = [answer.number for answer in answers if answer.number is not None]
    assert numbers == list(range(len(ours.seen))), ("answers are missing, or not in order", data)
    assert sum(not answer.is_of_app for answer in answers) <= 1, ("refused twice", data)


def check_against_h11(ours: Reading, data: bytes) -> None:
    h11 = by_h11(data)
    count, mine = len(h11.seen), seen(ours)
    if h11.end == "no host":
        # As a message it is in order, so ours goes on; the application refuses the request once it is whole.
        assert mine[:count] == h11.seen[: len(mine)], data
        assert len(mine) <= count or count in ours.flawed, ("taken without one Host", data)
        return
    assert mine == h11.seen[: len(mine)], ("read as another request", data[:600], mine, h11.seen)
    if h11.end == "refused":
        assert ours.end != "open", ("h11 refuses it", data)
    elif ours.end == "open":
        assert len(ours.seen) == len(h11.seen), ("h11 has it whole, and we wait", data)


async def test_every_request_is_read_as_h11_reads_it(request: pytest.FixtureRequest) -> None:
    """What reaches the application is what h11 would hand over, and what h11 refuses does not: cut anywhere."""
    for rng in of_seed(request, "odd", 1.0):
        data = made.connection(rng)
        whole = await read_by("ours", [data])
        check_ours(whole, data)
        check_against_h11(whole, data)
        cuts = [made.cut(rng, data), made.cut(rng, data)]
        if len(data) <= PIECES_MAX:
            cuts.append([data[at : at + 1] for at in range(len(data))])
        for pieces in cuts:
            cut = await read_by("ours", pieces)
            check_ours(cut, data)
            assert told(cut) == told(whole), ("the cut changes it", pieces)


async def test_plain_requests_are_read_alike_by_all(request: pytest.FixtureRequest) -> None:
    """What is in order is taken, and by each server as the same: none of it is refused by being strict."""
    for rng in of_seed(request, "plain", 0.3):
        requests = [made.plain(rng) for _ in range(rng.randint(1, 5))]
        data = b"".join(requests)
        ours = await read_by("ours", made.cut(rng, data))
        check_ours(ours, data)
        assert (len(ours.seen), ours.end) == (len(requests), "open"), data
        for server in ("h11", "httptools"):
            theirs = await read_by(server, [data])
            assert seen(theirs) == seen(ours), (server, data)


async def test_uvicorn_reads_nothing_else(request: pytest.FixtureRequest) -> None:
    """Where uvicorn's own protocols hand a request over, it is the one that ours hands over in its place."""
    for rng in of_seed(request, "uvicorn", 0.3):
        data = made.connection(rng)
        ours = await read_by("ours", [data])
        for server in ("h11", "httptools"):
            theirs = await read_by(server, [data])
            for mine, other in zip(seen(ours), seen(theirs), strict=False):
                if server == "httptools":
                    other = without_faults(other, mine)
                assert mine == other, (server, data)


@pytest.mark.parametrize("early", [False, True])
async def test_a_client_that_sends_no_more(request: pytest.FixtureRequest, early: bool) -> None:
    """
    It has closed its half of the connection, anywhere, or the application has answered before it read the body:
    nothing stays behind, nothing is raised, and nothing is written to a closed connection.
    """
    for rng in of_seed(request, f"ends-{early}", 0.3):
        data = made.connection(rng)
        data = data[: rng.randint(1, len(data))]
        ours = await read_by("ours", made.cut(rng, data), half_close=True, early=early)
        assert not ours.wrong, (ours.wrong, data)
        assert ours.end != "open", data


async def test_heads_that_are_too_large(request: pytest.FixtureRequest) -> None:
    """However it comes, a head of twice the limit is refused, and one of half of it is read."""
    for rng in of_seed(request, "huge", 0.02):
        data = made.plain(rng) + made.huge(rng)
        whole = await read_by("ours", [data])
        cut = await read_by("ours", made.cut(rng, data))
        check_ours(whole, data)
        assert told(cut) == told(whole)
        assert seen(whole) == by_h11(data).seen[: len(whole.seen)]


async def test_the_fuzzer_meets_what_it_looks_for(request: pytest.FixtureRequest) -> None:
    """Among what it sends are requests that only we refuse, that both refuse, and that both read."""
    found = set()
    for rng in of_seed(request, "odd", 0.3):
        data = made.connection(rng)
        ours = await read_by("ours", [data])
        found.add((ours.end, by_h11(data).end, bool(ours.seen)))
    ends = {(ours, h11) for ours, h11, _ in found}
    assert {("refused", "refused"), ("refused", "open"), ("open", "open"), ("closed", "closed")} <= ends
