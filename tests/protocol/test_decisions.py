"""What may happen to a stream, rule by rule: state, request, and what is decided."""

from __future__ import annotations

import pytest
from msgspec import structs

from durable_chat.errors import (
    Conflict,
    DurableChatError,
    Gone,
    InvalidRequest,
    SequenceGap,
    StaleEpoch,
    StreamClosed,
)
from durable_chat.protocol.messages import JSON, Payload, join_messages
from durable_chat.protocol.offsets import encode_offset
from durable_chat.protocol.producers import accept_producer
from durable_chat.protocol.requests import Append, Create, Fork, Producer
from durable_chat.protocol.states import ProducerState, StreamState
from durable_chat.protocol.streams import decide_append, decide_create, decide_delete, release_fork
from tests.store.making import make_state

KNOWN = ProducerState(epoch=3, seq=5, updated_ms=0)
ONE = join_messages([b"1"])


@pytest.mark.parametrize(
    ("known", "epoch", "seq", "expected"),
    [
        (None, 0, 0, ProducerState(0, 0, 9)),
        (None, 7, 0, ProducerState(7, 0, 9)),
        (None, 0, 1, SequenceGap),
        (KNOWN, 2, 0, StaleEpoch),
        (KNOWN, 4, 0, ProducerState(4, 0, 9)),
        (KNOWN, 4, 1, InvalidRequest),
        (KNOWN, 3, 5, None),
        (KNOWN, 3, 0, None),
        (KNOWN, 3, 6, ProducerState(3, 6, 9)),
        (KNOWN, 3, 7, SequenceGap),
    ],
)
def test_producers(known: ProducerState | None, epoch: int, seq: int, expected: object) -> None:
    """PROTOCOL.md 5.2.1, validation logic."""
    claim = Producer("p", epoch, seq)
    if isinstance(expected, type):
        with pytest.raises(expected):
            accept_producer(known, claim, 9)
    else:
        assert accept_producer(known, claim, 9) == expected


CLOSED = make_state("s", tail=2, closed=True, closed_by=("p", 3, 5))


@pytest.mark.parametrize(
    ("state", "request_", "expected"),
    [
        (make_state("s", deleted=True), Append(ONE, JSON), Gone),
        (CLOSED, Append(ONE, JSON), StreamClosed),
        (CLOSED, Append(ONE, "text/plain"), StreamClosed),
        (CLOSED, Append(ONE, JSON, close=True), StreamClosed),
        (CLOSED, Append(ONE, JSON, producer=Producer("p", 3, 6)), StreamClosed),
        (CLOSED, Append(ONE, JSON, producer=Producer("q", 0, 0)), StreamClosed),
        (CLOSED, Append(ONE, JSON, producer=Producer("p", 2, 0)), StaleEpoch),
        (make_state("s"), Append(ONE, "text/plain"), Conflict),
        (make_state("s"), Append(ONE, None), Conflict),
        (make_state("s"), Append(), InvalidRequest),
        (make_state("s", last_seq="b"), Append(ONE, JSON, seq="b"), Conflict),
        (make_state("s", last_seq="b"), Append(ONE, JSON, seq="a"), Conflict),
        (make_state("s", last_seq="b"), Append(ONE, JSON, seq="B"), Conflict),
    ],
)
def test_refused_appends(state: StreamState, request_: Append, expected: type[DurableChatError]) -> None:
    """Each in its order of precedence (PROTOCOL.md 5.2)."""
    with pytest.raises(expected):
        decide_append(state, {"p": KNOWN}, request_, 9)


def test_an_append_moves_the_tail() -> None:
    """By messages in a JSON stream, by bytes in any other."""
    decision = decide_append(make_state("s", tail=4), {}, Append(join_messages([b"1", b"2"]), JSON, seq="x"), 9)
    assert decision.state is not None
    assert (decision.state.tail, decision.state.version, decision.state.last_seq) == (6, 2, "x")
    assert decision.appended.next_offset == encode_offset(0, 6)
    text = make_state("s", tail=4, content_type="text/plain")
    decision = decide_append(text, {}, Append(Payload(b"abc"), "TEXT/plain; charset=utf-8"), 9)
    assert decision.appended.next_offset == encode_offset(0, 7)


def test_repeated_closes_are_no_error() -> None:
    """A close without a body always; one by the producer that closed, with the same numbers."""
    assert decide_append(CLOSED, {}, Append(close=True), 9).appended.closed
    repeated = decide_append(CLOSED, {"p": KNOWN}, Append(ONE, JSON, close=True, producer=Producer("p", 3, 5)), 9)
    assert repeated.state is None
    assert repeated.appended.duplicate and repeated.appended.closed


def test_a_duplicate_answers_with_the_highest_number() -> None:
    """So that a producer that pipelines learns how far it got."""
    decision = decide_append(make_state("s"), {"p": KNOWN}, Append(ONE, JSON, producer=Producer("p", 3, 1)), 9)
    assert decision.state is None
    assert decision.appended.producer == Producer("p", 3, 5)


def create(existing: StreamState | None, request: Create, source: StreamState | None = None) -> str:
    """What a PUT comes to: created, found, or the name of the error."""
    try:
        decision = decide_create("s", existing, source, request, 9, 9)
    except DurableChatError as error:
        return error.code
    return "found" if decision.created.existed else "created"


@pytest.mark.parametrize(
    ("existing", "request_", "expected"),
    [
        (None, Create(JSON), "created"),
        (make_state("s"), Create("Application/JSON; charset=utf-8"), "found"),
        (make_state("s"), Create(JSON, payload=ONE), "found"),
        (make_state("s"), Create("text/plain"), "already_exists"),
        (make_state("s"), Create(JSON, ttl_s=1), "already_exists"),
        (make_state("s", ttl_s=1), Create(JSON, ttl_s=1), "found"),
        (make_state("s"), Create(JSON, closed=True), "already_exists"),
        (make_state("s", closed=True), Create(JSON, closed=True), "found"),
        (make_state("s", closed=True), Create(JSON), "already_exists"),
        (make_state("s", deleted=True, forks=1), Create(JSON), "path_in_use"),
    ],
)
def test_creates(existing: StreamState | None, request_: Create, expected: str) -> None:
    """Create or find (PROTOCOL.md 5.1)."""
    assert create(existing, request_) == expected


SOURCE = make_state("src", stream_id=3, tail=5, ttl_s=60, life=3)


@pytest.mark.parametrize(
    ("fork", "content_type", "expected"),
    [
        (Fork("src"), None, 5),
        (Fork("src", encode_offset(3, 2)), JSON, 2),
        (Fork("src", encode_offset(2, 2)), JSON, "bad_fork"),
        (Fork("src", encode_offset(3, 2), 3), None, 5),
        (Fork("src", encode_offset(3, 2), 4), None, "bad_fork"),
        (Fork("src", encode_offset(3, 6)), None, "bad_fork"),
        (Fork("src", None, 1), None, "bad_fork"),
        (Fork("src", "x"), None, "bad_offset"),
        (Fork("src"), "text/plain", "content_type_mismatch"),
    ],
)
def test_forks(fork: Fork, content_type: str | None, expected: int | str) -> None:
    """Where a fork begins, and what it may not be (PROTOCOL.md 4.2)."""
    request = Create(content_type, fork=fork)
    if isinstance(expected, str):
        assert create(None, request, SOURCE) == expected
        return
    decision = decide_create("s", None, SOURCE, request, 9, 9)
    assert decision.state is not None and decision.source is not None
    assert (decision.state.fork_position, decision.state.tail) == (expected, expected)
    assert decision.state.ttl_s == 60
    assert decision.source.forks == 1
    assert create(decision.state, request, SOURCE) == "found"


def test_a_forks_offsets_are_its_sources_up_to_where_it_begins() -> None:
    """After that they are its own, which are higher; and so on for a fork of a fork."""
    one = decide_create("one", None, SOURCE, Create(fork=Fork("src", encode_offset(3, 4))), 9, 9).state
    assert one is not None
    one = structs.replace(one, tail=8)
    two = decide_create("two", None, one, Create(fork=Fork("one", encode_offset(9, 6))), 12, 9).state
    assert two is not None
    assert [two.offset(n) for n in range(5)] == [SOURCE.offset(n) for n in range(5)]
    assert [two.offset(n) for n in (5, 6)] == [one.offset(n) for n in (5, 6)] == [encode_offset(9, n) for n in (5, 6)]
    assert two.offset(7) == encode_offset(12, 7)
    assert sorted(two.offset(n) for n in range(9)) == [two.offset(n) for n in range(9)]


def test_deleting_spares_what_forks_read() -> None:
    """A stream with forks is kept for them, and goes with the last one."""
    assert decide_delete(make_state("s")) is None
    kept = decide_delete(make_state("s", forks=2))
    assert kept is not None and kept.deleted
    with pytest.raises(Gone):
        decide_delete(kept)
    one_left = release_fork(kept)
    assert one_left is not None and one_left.forks == 1
    assert release_fork(one_left) is None
    assert release_fork(make_state("s", forks=1)) is not None
