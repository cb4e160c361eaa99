"""
Idempotent producers (PROTOCOL.md 5.2.1): decide whether a producer's numbers are new, duplicates, or out of order.
"""

from __future__ import annotations

from durable_chat.errors import InvalidRequest, SequenceGap, StaleEpoch
from durable_chat.protocol.requests import Producer
from durable_chat.protocol.states import ProducerState

NUMBER_MAX = 2**53 - 1
"""The largest epoch or sequence number: the largest integer that JavaScript represents exactly."""


def accept_producer(known: ProducerState | None, claim: Producer, now_ms: int) -> ProducerState | None:
    """
    Return the producer's next state, or None when the claim is a duplicate. Raises StaleEpoch, SequenceGap, or
    InvalidRequest when a new epoch does not begin with 0. After an error nothing has changed.
    """
    if known is None:
        if claim.seq != 0:
            raise SequenceGap(0, claim.seq)
        return ProducerState(claim.epoch, 0, now_ms)
    if claim.epoch < known.epoch:
        raise StaleEpoch(known.epoch)
    if claim.epoch > known.epoch:
        if claim.seq != 0:
            raise InvalidRequest("A new epoch must begin with sequence number 0.", code="bad_sequence")
        return ProducerState(claim.epoch, 0, now_ms)
    if claim.seq <= known.seq:
        return None
    if claim.seq > known.seq + 1:
        raise SequenceGap(known.seq + 1, claim.seq)
    return ProducerState(claim.epoch, claim.seq, now_ms)
