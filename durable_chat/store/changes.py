"""Conversions from decisions to the changes that a backend takes, and to what readers and callers get."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import msgspec

from durable_chat.errors import DurableChatError, StoreFailed
from durable_chat.protocol.messages import Payload
from durable_chat.protocol.requests import Append, Appended, Created
from durable_chat.protocol.states import ProducerState, StreamState
from durable_chat.protocol.streams import AppendDecision
from durable_chat.store.base import Head, Piece, StreamChange

Given = TypeVar("Given", Appended, Created)


class Staged(NamedTuple):
    """A large payload that was written ahead of its flush. `number` is what `Backend.stage` returned."""

    number: int | None


def make_head(state: StreamState) -> Head:
    return Head(state.content_type, state.tail_offset, state.closed, state.ttl_s, state.expires_at, state.id)


def piece_of(stop: int, payload: Payload, staged: Staged | None) -> Piece | None:
    """The piece of a payload that ends at the position `stop`; None for an empty payload."""
    units = payload.units
    number = staged.number if staged is not None else None
    return Piece(stop - units, payload.data, payload.lengths, number) if units else None


def append_change(decision: AppendDecision, request: Append, staged: Staged | None) -> StreamChange:
    assert decision.state is not None
    producers: dict[str, ProducerState] | None = None
    if request.producer is not None and decision.producer is not None:
        producers = {request.producer.id: decision.producer}
    return StreamChange(decision.state, piece_of(decision.state.tail, decision.payload, staged), producers)


def dropped(state: StreamState) -> StreamChange:
    return StreamChange(msgspec.structs.replace(state, version=state.version + 1), drop=True)


def tell_given(
    done: Callable[[Given | None, DurableChatError | None], None],
    given: Given,
    accepted: bool,
    failure: StoreFailed | None,
) -> None:
    done(given if accepted else None, failure)


def tell(done: asyncio.Future[bool], accepted: bool, failure: StoreFailed | None) -> None:
    if done.done():  # the caller is gone
        return
    if failure is None:
        done.set_result(accepted)
    else:
        done.set_exception(failure)
