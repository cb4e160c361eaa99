"""Selecting one run from a log: its chunks with their offsets."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from durable_chat.api.doors.tanstack_wire import ndjson_wire
from durable_chat.api.doors.wires import RunPart
from durable_chat.http.upstream.reader import RemoteBatch
from durable_chat.protocol.offsets import encode_offset
from durable_chat.protocol.states import StreamState
from durable_chat.sessions.running.waiting_chunks import TURN_QUEUED
from durable_chat.store.base import Batch as AnyBatch
from durable_chat.store.tail import Batch
from durable_chat.transcripts.runs.marks import ALIVE, run_resumed_chunk

LIFE = 7


def text(delta: str) -> dict[str, Any]:
    return {"type": "TEXT_MESSAGE_CONTENT", "messageId": "m1", "delta": delta}


def run(kind: str, run_id: str = "r") -> dict[str, Any]:
    return {"type": kind, "runId": run_id}


ECHO = {"type": "TEXT_MESSAGE_START", "messageId": "u1", "role": "user"}
LOG = [
    *(run("RUN_STARTED", "before"), run("RUN_FINISHED", "before"), ECHO),
    *(run("RUN_STARTED"), text("a"), {"type": "CUSTOM", "name": TURN_QUEUED, "value": {}}, text("b")),
    *({"type": "CUSTOM", "name": ALIVE, "value": {}}, {"type": "CUSTOM", "name": "mine", "value": 1}),
    *(run("RUN_ERROR", "another"), run("RUN_FINISHED"), run("RUN_STARTED", "after"), text("c")),
]
OWN = [LOG[3], LOG[4], LOG[6], LOG[8], LOG[10]]


def batches(log: list[dict[str, Any]], sizes: list[int], *, remote: bool) -> list[tuple[list[Any], AnyBatch]]:
    """Yield the log in batches of these sizes."""
    state = StreamState(1, "p", 1, "application/json", len(log), 0, 0, life=LIFE)
    found: list[tuple[list[Any], AnyBatch]] = []
    start = 0
    for size in sizes:
        some = log[start : start + size]
        data = b",".join(map(msgspec.json.encode, some))
        stop = start + len(some)
        batch: AnyBatch = Batch("application/json", state, start, stop, data, up_to_date=True, closed=False)
        if remote:
            batch = RemoteBatch(f"o{start}", f"o{stop}", data, up_to_date=True)
        found.append((list(some), batch))
        start = stop
    return found


def sent(data: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in data.splitlines()]


@pytest.mark.parametrize("sizes", [[1] * len(LOG), [len(LOG)], [5, 3, 5], [2, 7, 4]], ids=str)
@pytest.mark.parametrize("remote", [False, True], ids=["embedded", "remote"])
def test_the_chunks_of_the_run_alone(sizes: list[int], remote: bool) -> None:
    """Each chunk of the run comes once, with the offset after it, however the log is divided into batches."""
    part = RunPart("s", "r", ndjson_wire("0"))
    made = b"".join(
        part.take(*batch, remote=remote) for batch in batches(LOG, sizes, remote=remote) if not part.has_ended
    )
    lines = sent(made)
    assert [line["chunk"] for line in lines] == OWN
    if not remote:
        assert [line["id"] for line in lines] == [encode_offset(LIFE, LOG.index(chunk) + 1) for chunk in OWN]
    assert len({line["id"] for line in lines}) == len(OWN)
    assert part.has_ended


def test_messages_that_are_read_again() -> None:
    """When a slow client makes a batch be read again in other pieces, nothing is sent twice."""
    part = RunPart("s", "r", ndjson_wire("0"))
    (first,) = batches(LOG[:8], [8], remote=False)
    made = part.take(*first, remote=False)
    part.skip(8)
    for batch in batches(LOG, [3, 6, 4], remote=False):
        made += part.take(*batch, remote=False)
    assert [line["chunk"] for line in sent(made)] == OWN


def test_a_run_that_another_process_ended() -> None:
    """Another run's start means that this run was abandoned: the response ends with an error without an offset."""
    part = RunPart("s", "r", ndjson_wire("0"))
    log = [run("RUN_STARTED"), text("a"), run("RUN_STARTED", "another"), text("b")]
    lines = sent(b"".join(part.take(*batch, remote=False) for batch in batches(log, [4], remote=False)))
    assert [line["chunk"] for line in lines[:2]] == log[:2]
    assert (lines[2]["type"], lines[2]["code"], len(lines)) == ("RUN_ERROR", "interrupted", 3)
    assert part.fail("Again.", "again") == b""


def test_from_inside_the_run() -> None:
    """A response that starts in the middle of a run needs no RUN_STARTED."""
    part = RunPart("s", "r", ndjson_wire("0"), inside=True)
    (batch,) = batches(LOG[4:], [9], remote=False)
    assert [line["chunk"] for line in sent(part.take(*batch, remote=False))] == OWN[1:]


def test_a_turn_that_never_began() -> None:
    """A waiting turn that a restart ended has an end only."""
    part = RunPart("s", "r", ndjson_wire("0"))
    (batch,) = batches([ECHO, run("RUN_ERROR")], [2], remote=False)
    assert [line["chunk"]["type"] for line in sent(part.take(*batch, remote=False))] == ["RUN_ERROR"]
    assert part.has_ended


def test_with_what_comes_before_the_run() -> None:
    """A response of the whole session also shows the runs before its own, and none after it."""
    part = RunPart("s", "r", ndjson_wire("0"), with_others=True)
    (batch,) = batches(LOG, [len(LOG)], remote=False)
    assert [line["chunk"] for line in sent(part.take(*batch, remote=False))] == [*LOG[:3], *OWN]


@pytest.mark.parametrize(("resumes", "dropped"), [(0, ""), (1, "a"), (2, "ab"), (9, "ab")])
def test_what_retries_have_dropped(resumes: int, dropped: str) -> None:
    """What was dropped in so many resumptions of the run is left out, and later ones are rendered as they come."""
    again = [run_resumed_chunk("r", at, "retry", 0, kept=0) for at in (1, 2)]
    shown = {"type": "MESSAGES_SNAPSHOT", "messages": []}
    log = [run("RUN_STARTED"), text("a"), again[0], shown, text("b"), again[1], shown, text("c"), run("RUN_FINISHED")]
    part = RunPart("s", "r", ndjson_wire("0"), resumes=resumes)
    made = [
        each["chunk"] for some in batches(log, [2, 5, 2], remote=False) for each in sent(part.take(*some, remote=False))
    ]
    assert [chunk for chunk in made if chunk["type"] not in ("CUSTOM", "MESSAGES_SNAPSHOT")] == [
        *(run("RUN_STARTED"), *[text(delta) for delta in "abc" if delta not in dropped], run("RUN_FINISHED"))
    ]
    assert made.count(again[0]) == (resumes < 1)
    assert made.count(again[1]) == (resumes < 2)
