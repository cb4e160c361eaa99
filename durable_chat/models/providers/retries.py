"""
Ask a provider again after a transient failure, as long as the answer has not begun.

After the first token nothing is repeated: what was said would be said twice, and paid twice. The packages' own retries
are turned off, so that retries do not multiply.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

from durable_chat.models.providers.failures import TransientError
from durable_chat.transcripts.answers.items import WORKING
from durable_chat.transcripts.chunks import Chunk

RETRIES_MAX = 2
"""Default retries of a request. A provider that fails three times in a row will not recover while a person waits."""

RETRY_AFTER_MAX_S = 30.0
"""The longest wait that a provider may ask for. For a longer one, the person is told to try again later."""

RETRY_TIME_MAX_S = 60.0
"""No further attempt starts this long after the first: half of the time after which a silent answer fails."""

WAIT_FIRST_S = 0.5
"""The wait before the second attempt, which doubles from one attempt to the next. Overloads rarely end sooner."""

WAIT_MAX_S = 8.0
"""The longest wait that the provider has not asked for."""

STILL_WORKING: Chunk = {"type": WORKING}
"""An item that is never stored. It shows that an answer without output is still being worked on."""

Events = AsyncGenerator[Any, None]


async def retried(ask: Callable[[], Events], has_begun: Callable[[Any], bool] | None, retries_max: int) -> Events:
    """
    Yield the events of `ask()`. After a TransientError, ask again with backoff, unless the answer has begun:
    `has_begun` tells it from an event; None means with the first one. Yield None before each further attempt.
    """
    import stamina

    held: list[Any] = []
    events: Events | None = None
    waits = {"wait_initial": WAIT_FIRST_S, "wait_max": WAIT_MAX_S}
    attempts = stamina.retry_context(_backoff, attempts=retries_max + 1, timeout=RETRY_TIME_MAX_S, **waits)
    async for attempt in attempts:
        if attempt.num > 1:
            yield None
        with attempt:
            events = ask()
            held = await _beginning(events, has_begun)
    assert events is not None
    async with aclosing(events):
        for event in held:
            yield event
        held.clear()
        async for event in events:
            yield event


async def _beginning(events: Events, has_begun: Callable[[Any], bool] | None) -> list[Any]:
    """Read up to the first token. Until then nothing is passed on, so that nothing has to be taken back."""
    held = []
    try:
        async for event in events:
            held.append(event)
            if has_begun is None or has_begun(event):
                break
    except BaseException:
        await events.aclose()
        raise
    return held


def _backoff(error: Exception) -> bool | float:
    """Return whether to ask again, or after how many seconds."""
    if not isinstance(error, TransientError):
        return False
    if error.retry_after_s is None:
        return True
    return error.retry_after_s if error.retry_after_s <= RETRY_AFTER_MAX_S else False
