"""
Give a model only as much of a conversation as fits into a limit of tokens. Earlier turns are summarized once, and the
summary is written to the log.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import msgspec

from durable_chat.config.settings import CONTEXT_TOKENS_MIN
from durable_chat.models.base import Model, Output, Turn
from durable_chat.models.context.fitting import TAIL_SHARE, Past, cut, fit, spoken
from durable_chat.models.context.measuring import Scale, known_count, message_tokens, tokens_of
from durable_chat.models.context.summarizing import Summarized, asking, failure_of, summarize, summary_tokens
from durable_chat.models.outputs import close_output, open_output
from durable_chat.transcripts.answers.items import WORKING, as_chunk
from durable_chat.transcripts.chunks import Chunk
from durable_chat.transcripts.context_summaries import ContextSummary
from durable_chat.transcripts.usage import SO_FAR, usage_of

NEAR_SHARE = 0.5
"""
The share of the limit from which on an estimated context is counted by the provider, if it can do that. The estimate is
never wrong by half.
"""

COUNT_S = 10.0
"""How long the provider may take to count. The estimate is used then."""

WORKING_S = 0.5
"""How often a run reports that a summary is being written, so that it does not count as stalled."""

CANCEL_WAIT_S = 5.0
"""How long a cancelled summary has to clean up."""

log = logging.getLogger(__name__)


class ContextLimit:
    """
    A model that is never given more than about `tokens` tokens: `ContextLimit(model, 50_000, summarizer=other)`.

    Earlier turns are summarized by the `summarizer`, which is the model itself by default. Summaries are kept in the
    session's log, so that later turns use them. If a summary fails, the oldest turns are left out instead.
    """

    def __init__(self, model: Model, tokens: int, summarizer: Model | None = None) -> None:
        if tokens < CONTEXT_TOKENS_MIN:
            raise ValueError(f"The limit of a context must be at least {CONTEXT_TOKENS_MIN} tokens, not {tokens}.")
        self.model = model
        self.tokens = tokens
        self.summarizer = summarizer or model

    @property
    def secrets(self) -> tuple[str, ...]:
        """The secrets of both models."""
        return tuple(secret for model in (self.model, self.summarizer) for secret in getattr(model, "secrets", ()))

    @property
    def server_tools(self) -> frozenset[str]:
        """The tools whose results a client must not set."""
        return getattr(self.model, "server_tools", frozenset())

    def check(self, api_key: str | None) -> None:
        """See `models.choosing.check_key`."""
        check = getattr(self.model, "check", None)
        if check is not None:
            check(api_key)

    async def aclose(self) -> None:
        for model in {id(model): model for model in (self.model, self.summarizer)}.values():
            aclose = getattr(model, "aclose", None)
            if aclose is not None:
                await aclose()

    def resume(self, turn: Turn, said: Sequence[Chunk], /) -> Output | None:
        """See `models.base.Resumable`."""
        resume = getattr(self.model, "resume", None)
        output: Output | None = None if resume is None else resume(self._fitted(turn), said)
        return output

    def _fitted(self, turn: Turn) -> Turn:
        """Return a turn with what fits of its messages, where no summary can be written: the oldest are left out."""
        past = Past.of(turn.messages, turn.context.summary)
        if past is None:
            return turn
        room = self.tokens - summary_tokens(self.tokens)
        at = cut(turn.messages, past, room)
        if at > past.start and tokens_of((*spoken(past.summary), *turn.messages[past.start :])) > self.tokens:
            text = "" if past.summary is None else past.summary.text
            left_out = ContextSummary(str(turn.messages[at - 1]["id"]), text, 0, 0, "", failure="")
            past = Past(at, past.newest, left_out)
        messages = fit(turn.messages, past, Scale(), self.tokens)
        return replace(turn, messages=messages, heard=partial(self._heard, turn.heard))

    async def _heard(self, hear: Callable[[], Awaitable[Turn | None]]) -> Turn | None:
        """See `Turn.heard`. A model that hears messages itself gets them within the limit, too."""
        turn = await hear()
        return None if turn is None else self._fitted(turn)

    async def __call__(self, turn: Turn, /) -> AsyncGenerator[Any, None]:
        past = Past.of(turn.messages, turn.context.summary)
        made = Summarized()
        if past is not None:
            size = await self._measure(turn, past)
            room = size.scale.room(int(self.tokens * TAIL_SHARE)) - summary_tokens(self.tokens)
            at = cut(turn.messages, past, room)
            if size.tokens > self.tokens and at > past.start:
                task = asyncio.create_task(self._summary(turn, past, at, size, made), name=f"summary of {turn.run_id}")
                async with aclosing(_working(task)) as waits:
                    async for chunk in waits:
                        yield chunk
                summary = task.result()
                yield summary.chunk() | {"timestamp": _now_ms()}
                yield {"type": SO_FAR, "usage": made.counts}
                past = Past(at, past.newest, summary)
            messages = fit(turn.messages, past, size.scale, self.tokens)
            turn = replace(turn, messages=messages, heard=partial(self._heard, turn.heard))
        async with aclosing(self._answer(turn, made.counts)) as answer:
            async for item in answer:
                yield item

    async def _measure(self, turn: Turn, past: Past) -> Size:
        """Measure what the model would be given: by the provider's last count, or a new one near the limit."""
        messages = turn.messages[past.start :]
        sizes = [message_tokens(message) for message in messages]
        fixed = tokens_of(spoken(past.summary))
        estimate = fixed + sum(sizes)
        tokens = known_count(turn.context.counted, messages, sizes, fixed)
        count = getattr(self.model, "count_tokens", None)
        if tokens is None and count is not None and estimate > self.tokens * NEAR_SHARE:
            tokens = await _counted(count, replace(turn, messages=(*spoken(past.summary), *messages)))
        tokens = estimate if tokens is None else tokens
        return Size(tokens, Scale.of(tokens, estimate, self.tokens))

    async def _summary(self, turn: Turn, past: Past, at: int, size: Size, made: Summarized) -> ContextSummary:
        """Summarize the messages from what the summary in force covers to `at`. A failure is part of the result."""
        begin, made.text = _begin(turn.messages, past)
        text, failure, up_to = made.text, None, None if begin == 0 else str(turn.messages[begin - 1]["id"])
        asked = asking(turn, with_key=_same_provider(self.summarizer, self.model))
        try:
            await summarize(self.summarizer, asked, turn.messages[begin:at], self.tokens, made)
            text, up_to = made.text, None
        except Exception as error:  # noqa: BLE001 - an application's model may raise anything, and the turn must go on
            failure = failure_of(error)
            log.warning("no summary for run %s in session %s: %s", turn.run_id, turn.session_id, type(error).__name__)
        summary = ContextSummary(
            str(turn.messages[at - 1]["id"]), text, size.tokens, 0, _name_of(self.summarizer, made), failure, up_to
        )
        after = size.scale.apply(tokens_of(spoken(summary)) + tokens_of(turn.messages[at:]))
        return msgspec.structs.replace(summary, tokens_after=after)

    async def _answer(self, turn: Turn, counts: Sequence[Mapping[str, Any]]) -> AsyncGenerator[Any, None]:
        """Yield the model's answer. Its usage includes that of the summary."""
        source = await open_output(self.model, turn)
        try:
            async for item in source:
                yield _with_counts(item, counts) if counts else item
        finally:
            await close_output(source)


@dataclass(frozen=True, slots=True)
class Size:
    """The tokens of a context, and how they relate to the estimates of its messages."""

    tokens: int
    scale: Scale


async def _counted(count: Callable[[Turn], Awaitable[int | None]], turn: Turn) -> int | None:
    """Return the provider's count, or None if it does not count now."""
    try:
        async with asyncio.timeout(COUNT_S):
            return await count(turn)
    except Exception as error:  # noqa: BLE001 - the answer fails for the same reason, or the estimate is enough
        log.warning("the provider did not count the tokens of run %s: %s", turn.run_id, type(error).__name__)
        return None


async def _working(task: asyncio.Task[Any]) -> AsyncGenerator[Chunk, None]:
    """Report that the run is alive until the task is done. Cancel the task if nobody waits for it any more."""
    try:
        while not (await asyncio.wait([task], timeout=WORKING_S))[0]:
            yield {"type": WORKING}
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait([task], timeout=CANCEL_WAIT_S)


def _begin(messages: Sequence[Mapping[str, Any]], past: Past) -> tuple[int, str]:
    """Return the first message to summarize, and the text that covers those before it."""
    summary = past.summary
    if summary is None:
        return 0, ""
    if summary.failure is None:
        return past.start, summary.text
    covered = (at + 1 for at in range(past.start) if messages[at].get("id") == summary.summarized_to)
    begin = next(covered, 0)
    return begin, summary.text if begin else ""


def _with_counts(item: object, counts: Sequence[Mapping[str, Any]]) -> object:
    """Return an item of the answer, with the counts of the summary before its own."""
    if isinstance(item, str) or item is None:
        return item
    chunk = as_chunk(item)
    if chunk is None or chunk["type"] not in (SO_FAR, "RUN_FINISHED", "RUN_ERROR"):
        return item
    return {**chunk, "usage": [*counts, *usage_of(chunk.get("usage"))]}


def _same_provider(one: Model, other: Model) -> bool:
    provider = getattr(one, "provider", None)
    return one is other or (provider is not None and provider == getattr(other, "provider", None))


def _name_of(model: Model, made: Summarized) -> str:
    """Return the model's name as the provider reports it, otherwise as the application calls it."""
    reported = [counts["model"] for counts in made.counts if isinstance(counts.get("model"), str)]
    if reported:
        return str(reported[-1])
    name = getattr(model, "name", None) or getattr(model, "__name__", None)
    return name if isinstance(name, str) else type(model).__name__


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
