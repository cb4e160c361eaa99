"""
The rules of a stream: each function takes its state and a request, and returns what to write and what to answer.

These functions read no clock, do not wait and do not write: `now_ms` and ids are arguments. An error means that nothing
changes. The caller commits a decision before anybody learns of it.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from durable_chat.errors import Conflict, Gone, InvalidRequest, StreamClosed
from durable_chat.protocol.messages import BINARY, EMPTY, Payload, normalize_content_type
from durable_chat.protocol.offsets import decode_offset
from durable_chat.protocol.producers import accept_producer
from durable_chat.protocol.requests import Append, Appended, Create, Created, Fork, Producer
from durable_chat.protocol.states import ProducerState, StreamState


class CreateDecision(msgspec.Struct, frozen=True):
    """
    The result of a create. `state` is None when the stream already exists. `source` is the new state of a forked
    stream.
    """

    created: Created
    state: StreamState | None = None
    payload: Payload = EMPTY
    source: StreamState | None = None


class AppendDecision(msgspec.Struct, frozen=True, gc=False):
    """The result of an append. `state` is None when there is nothing to write."""

    appended: Appended
    state: StreamState | None = None
    payload: Payload = EMPTY
    producer: ProducerState | None = None


def decide_create(
    path: str, existing: StreamState | None, source: StreamState | None, request: Create, stream_id: int, now_ms: int
) -> CreateDecision:
    """
    Create or find a stream (PROTOCOL.md 5.1, 4.2). `source` is the state of the stream to fork. Raises Conflict when
    something else has the path, and InvalidRequest for a fork that begins past the source's tail or in an earlier
    stream.
    """
    if existing is not None and existing.deleted:
        raise Conflict("A deleted stream is kept at this path because it still has forks.", code="path_in_use")
    wanted = _new_state(path, source, request, stream_id, now_ms)
    if existing is not None:
        if not _same_configuration(existing, wanted, request):
            raise Conflict(
                "A stream with a different configuration already exists at this path.", code="already_exists"
            )
        return CreateDecision(_created(existing, existed=True))
    state = msgspec.structs.replace(wanted, tail=wanted.tail + request.payload.units)
    if source is not None:
        source = msgspec.structs.replace(source, forks=source.forks + 1, version=source.version + 1)
    return CreateDecision(_created(state, existed=False), state, request.payload, source)


def _created(state: StreamState, *, existed: bool) -> Created:
    return Created(existed, state.content_type, state.tail_offset, state.closed)


def _new_state(path: str, source: StreamState | None, request: Create, stream_id: int, now_ms: int) -> StreamState:
    state = StreamState(
        id=stream_id,
        path=path,
        version=1,
        content_type=request.content_type or BINARY,
        tail=0,
        created_ms=now_ms,
        accessed_ms=now_ms,
        closed=request.closed,
        ttl_s=request.ttl_s,
        expires_at=request.expires_at,
        expires_at_ms=request.expires_at_ms,
        life=stream_id,
    )
    return state if source is None or request.fork is None else _forked(state, source, request, request.fork)


def _forked(state: StreamState, source: StreamState, request: Create, fork: Fork) -> StreamState:
    if source.deleted:
        raise Conflict("The source stream has been deleted.", code="source_deleted")
    if request.content_type is not None and not _same_type(request.content_type, source.content_type):
        raise Conflict("A fork must have the same content type as its source.", code="content_type_mismatch")
    inherits = request.ttl_s is None and request.expires_at is None
    position = _fork_position(source, fork)
    return msgspec.structs.replace(
        state,
        content_type=request.content_type or source.content_type,
        tail=position,
        ttl_s=source.ttl_s if inherits else state.ttl_s,
        expires_at=source.expires_at if inherits else state.expires_at,
        expires_at_ms=source.expires_at_ms if inherits else state.expires_at_ms,
        source=source.path,
        source_id=source.id,
        fork_position=position,
        fork_offset=fork.offset,
        fork_sub_offset=fork.sub_offset,
        source_lives=_lives_until(source, position),
    )


def _lives_until(source: StreamState, position: int) -> tuple[tuple[int, int], ...]:
    """The lives of what a fork inherits from its source (see `StreamState`)."""
    earlier = tuple((stop, life) for stop, life in source.source_lives if stop < position)
    return (*earlier, (position, source.life_at(position)))


def _fork_position(source: StreamState, fork: Fork) -> int:
    if fork.offset is None:
        if fork.sub_offset:
            raise InvalidRequest("Stream-Fork-Sub-Offset needs Stream-Fork-Offset, which is missing.", code="bad_fork")
        return source.tail
    life, begin = decode_offset(fork.offset)
    if begin <= source.tail and life != source.life_at(begin):
        raise InvalidRequest("The fork offset belongs to an earlier stream at the source's path.", code="bad_fork")
    position = begin + fork.sub_offset
    if position > source.tail:
        raise InvalidRequest("The fork offset is past the tail of the source.", code="bad_fork")
    return position


def _same_type(one: str, other: str) -> bool:
    return normalize_content_type(one) == normalize_content_type(other)


def _same_configuration(existing: StreamState, wanted: StreamState, request: Create) -> bool:
    """Whether a PUT asks for the existing configuration (PROTOCOL.md 5.1)."""
    same_fork = existing.source_id == wanted.source_id and (
        request.fork is None or request.fork.offset is None or existing.fork_position == wanted.fork_position
    )
    return (
        same_fork
        and _same_type(existing.content_type, wanted.content_type)
        and existing.ttl_s == wanted.ttl_s
        and existing.expires_at_ms == wanted.expires_at_ms
        and existing.closed == wanted.closed
    )


def decide_append(
    state: StreamState, producers: Mapping[str, ProducerState], request: Append, now_ms: int
) -> AppendDecision:
    """
    Append and/or close (PROTOCOL.md 5.2 and 5.3). Errors are checked in this order: soft-deleted, fenced producer,
    closed, content type, producer sequence, Stream-Seq.
    """
    if state.deleted:
        raise Gone("The stream has been deleted.")
    claim = request.producer
    known = producers.get(claim.id) if claim is not None else None
    if state.closed:
        return _append_to_closed(state, known, request)
    units = request.payload.units
    if units == 0 and not request.close:
        raise InvalidRequest("The body is empty.", code="empty_body")
    given = request.content_type or ""
    if units and given != state.content_type and not _same_type(given, state.content_type):
        raise Conflict(f"The content type of the stream is {state.content_type}.", code="content_type_mismatch")
    moved = None
    if claim is not None:
        moved = accept_producer(known, claim, now_ms)
        if moved is None:
            return AppendDecision(_duplicate(state, claim, known))
    if request.seq is not None and state.last_seq is not None and _bytewise(request.seq) <= _bytewise(state.last_seq):
        raise Conflict("Stream-Seq must increase.", code="sequence_conflict")
    after = msgspec.structs.replace(
        state,
        version=state.version + 1,
        tail=state.tail + units,
        accessed_ms=max(now_ms, state.accessed_ms),
        closed=request.close,
        closed_by=(claim.id, claim.epoch, claim.seq) if request.close and claim is not None else None,
        last_seq=request.seq if request.seq is not None else state.last_seq,
    )
    assert after.tail >= state.tail
    return AppendDecision(Appended(after.tail_offset, after.closed, False, claim), after, request.payload, moved)


def _append_to_closed(state: StreamState, known: ProducerState | None, request: Append) -> AppendDecision:
    claim = request.producer
    if claim is not None and state.closed_by == (claim.id, claim.epoch, claim.seq):
        return AppendDecision(_duplicate(state, claim, known))
    if claim is not None and known is not None and claim.epoch < known.epoch:
        accept_producer(known, claim, 0)  # raises StaleEpoch, which takes precedence over StreamClosed
    if claim is None and request.close and request.payload.units == 0:
        return AppendDecision(Appended(state.tail_offset, closed=True))
    raise StreamClosed(state.tail_offset)


def _duplicate(state: StreamState, claim: Producer, known: ProducerState | None) -> Appended:
    highest = claim if known is None else Producer(claim.id, known.epoch, known.seq)
    return Appended(state.tail_offset, state.closed, True, highest)


def _bytewise(seq: str) -> bytes:
    """Encode a Stream-Seq, which is compared as bytes (PROTOCOL.md 5.2). Headers arrive as Latin-1."""
    return seq.encode("latin-1", "surrogateescape")


def decide_delete(state: StreamState) -> StreamState | None:
    """
    Delete a stream. Returns None when it is dropped, or its new state when it is kept for its forks. Raises Gone when
    it is already deleted.
    """
    if state.deleted:
        raise Gone("The stream has been deleted.")
    if state.forks == 0:
        return None
    return msgspec.structs.replace(state, deleted=True, version=state.version + 1)


def release_fork(source: StreamState) -> StreamState | None:
    """
    The source's state with one fork less. None when the source was kept only for that fork and is dropped with it.
    """
    assert source.forks > 0
    if source.deleted and source.forks == 1:
        return None
    return msgspec.structs.replace(source, forks=source.forks - 1, version=source.version + 1)
