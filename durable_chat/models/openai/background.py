"""
Background answers of the Responses API: they go on at the provider when this process dies, and are joined again.

The log holds marks: CUSTOM chunks with the response's id and the sequence number of an event after which no item of the
response was open. The first mark is durable before the first token is shown. What the log holds after the last mark are
the first characters of the items that follow it. So the provider is asked for the events after the mark, and what is in
the log already is left out. No delta needs a number of its own, and joined deltas stay joined.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from durable_chat.models.base import CannotResume, ProviderError, Turn
from durable_chat.models.openai import responses
from durable_chat.models.openai.answers import now_ms
from durable_chat.models.openai.errors import translated
from durable_chat.models.openai.responses import ResponseAnswer
from durable_chat.models.providers import failures
from durable_chat.models.providers.failures import TransientError
from durable_chat.models.providers.retries import STILL_WORKING, Events, retried
from durable_chat.transcripts.chunks import Chunk

if TYPE_CHECKING:
    from openai import AsyncOpenAI

MARK = "durable-chat.response"
"""The name of the CUSTOM chunks that mark how far a response is in the log."""

CANCEL_MAX_S = 4.0
"""How long a stop waits for the provider to cancel a response: less than a stopped model has to clean up."""

REJOINS_MAX = 10
"""
How often a lost connection to a response is tried again in a row. It costs nothing, and giving up loses what was paid
for. RETRY_TIME_MAX_S ends it as well.
"""

DELTAS = frozenset({"TEXT_MESSAGE_CONTENT", "REASONING_MESSAGE_CONTENT", "TOOL_CALL_ARGS"})
_CALLS = frozenset({"TOOL_CALL_START", "TOOL_CALL_ARGS", "TOOL_CALL_END"})

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Mark:
    """
    The last mark of a run: its response, the number of the last event that is in the log as a whole, whether the
    response belongs to the user's own key, the message that the answer is written to, and the chunks after the mark.
    """

    response_id: str
    sequence: int
    own_key: bool
    message_id: str | None
    said: Sequence[Chunk]


def last_mark(said: Sequence[Chunk]) -> Mark | None:
    """
    Return the last mark in a run's chunks, or None if its response cannot be joined: it is over, or there is none.
    """
    at, value = next(((at, value) for at in reversed(range(len(said))) if (value := _mark_in(said[at]))), (0, None))
    if value is None:
        return None
    after = said[at + 1 :]
    if any(chunk["type"] == "TOOL_CALL_RESULT" for chunk in after):
        return None  # its calls were executed, so the next step has begun
    first = next(at for at, chunk in enumerate(said) if (mark := _mark_in(chunk)) and mark["id"] == value["id"])
    starts = [chunk for chunk in said[first:] if chunk["type"] == "TEXT_MESSAGE_START"]
    message_id = starts[-1].get("messageId") if starts else None
    return Mark(value["id"], value["sequence"], bool(value.get("ownKey")), message_id, after)


def _mark_in(chunk: Chunk) -> Mapping[str, Any] | None:
    value = chunk.get("value")
    if chunk["type"] != "CUSTOM" or chunk.get("name") != MARK or not isinstance(value, Mapping):
        return None
    return value if isinstance(value.get("id"), str) and isinstance(value.get("sequence"), int) else None


async def start(
    client: AsyncOpenAI, turn: Turn, answer: ResponseAnswer, ask: Any, retries_max: int
) -> AsyncGenerator[Chunk, None]:
    """Yield the chunks of a new response."""
    # The response is ordered with its first event. After that it is joined again, and never ordered again.
    events = retried(ask, None, retries_max)
    following = _Following(client, turn, answer)
    async with aclosing(following.chunks(events)) as made:
        async for chunk in made:
            yield chunk


async def join(client: AsyncOpenAI, turn: Turn, answer: ResponseAnswer, mark: Mark) -> AsyncGenerator[Chunk, None]:
    """Yield what is missing of a response. Raises CannotResume first if the provider no longer has it."""
    following = _Following(client, turn, answer)
    answer.response_id, following.sequence, following.marked = mark.response_id, mark.sequence, mark.sequence
    begun = answer.start(mark.message_id or mark.response_id, None)
    unsaid = begun if mark.message_id is None else []
    missing = Missing(mark.said)
    async with aclosing(following.chunks(following.rejoined())) as made:
        async for chunk in made:
            if chunk is not STILL_WORKING:
                while unsaid:
                    yield unsaid.pop(0)
            rest = missing.of(chunk)
            if rest is not None:
                yield rest
    for chunk in unsaid:
        yield chunk


class _Following:
    """
    The events of one response, over any number of connections. State: the number of the last event, and that of the
    last mark.
    """

    def __init__(self, client: AsyncOpenAI, turn: Turn, answer: ResponseAnswer) -> None:
        self.client = client
        self.turn = turn
        self.answer = answer
        self.sequence: int | None = None
        self.marked: int | None = None

    async def chunks(self, events: Events) -> AsyncGenerator[Chunk, None]:
        """Yield the chunks, and cancel the response at the provider when nobody wants the rest."""
        try:
            while not self.answer.complete:
                before = self.sequence
                try:
                    async with aclosing(self._read(events)) as made:
                        async for chunk in made:
                            yield chunk
                except TransientError:
                    if self.answer.response_id is None or self.sequence == before:
                        raise  # the last connection brought nothing new
                    events = self.rejoined()
        except CannotResume:
            self.answer.response_id = None  # there is nothing to cancel
            raise
        finally:
            if self.answer.response_id is not None and not self.answer.complete:
                await self._cancel(self.answer.response_id)

    def rejoined(self) -> Events:
        """
        Yield the events that follow. A connection that brings no new event has failed, and is repeated with backoff.
        """
        return retried(self._retrieve, None, REJOINS_MAX)

    async def _retrieve(self) -> Events:
        assert self.answer.response_id is not None
        options = {"starting_after": self.sequence} if self.sequence is not None else {}
        open_stream = partial(self.client.responses.retrieve, self.answer.response_id, stream=True, **options)
        try:
            async with aclosing(translated(open_stream, responses.check_event, responses.is_last)) as events:
                async for event in events:
                    if _is_new(event, self.sequence):
                        yield event
        except ProviderError as error:
            if error.code == "model_not_found":  # the provider keeps events for some minutes only
                raise CannotResume(*failures.GONE) from None
            raise

    async def _read(self, events: Events) -> AsyncGenerator[Chunk, None]:
        async with aclosing(events):
            async for event in events:
                if event is None:
                    yield STILL_WORKING
                    continue
                if event.type == "response.output_item.added" and self.answer.between_items:
                    for chunk in self._mark():
                        yield chunk
                number = getattr(event, "sequence_number", None)
                self.sequence = number if isinstance(number, int) else self.sequence
                chunks = self.answer.take(event)
                if event.type == "response.created":
                    for chunk in self._mark():
                        yield chunk
                    await self.turn.saved()
                for chunk in chunks or [STILL_WORKING]:
                    yield chunk

    def _mark(self) -> list[Chunk]:
        """Return a mark, unless the last one says the same."""
        if self.answer.response_id is None or self.sequence is None or self.marked == self.sequence:
            return []
        self.marked = self.sequence
        own = {"ownKey": True} if self.turn.api_key else {}
        value = {"id": self.answer.response_id, "sequence": self.sequence, **own}
        return [{"type": "CUSTOM", "name": MARK, "value": value, "timestamp": now_ms()}]

    async def _cancel(self, response_id: str) -> None:
        try:
            async with asyncio.timeout(CANCEL_MAX_S):
                await self.turn.saved()  # fails when another process has taken up the run; the response is then its
                await self.client.responses.cancel(response_id)
        except Exception as error:  # noqa: BLE001 - the run ends anyway; the provider ends the response by itself
            log.warning("cancelling a background response failed: %s", type(error).__name__)


def _is_new(event: Any, sequence: int | None) -> bool:
    number = getattr(event, "sequence_number", None)
    return sequence is None or not isinstance(number, int) or number > sequence


@dataclass(slots=True)
class Missing:
    """
    Leaves out of an answer what the log holds of it: as many characters of text, thinking and arguments, and as many
    other chunks of each type. Lengths are UTF-16 code units, because the halves of a character may come apart.

    State: the lengths and numbers still to be left out, and the calls' ids in the log, by the provider's.
    """

    said: Iterable[Chunk]
    _units: dict[str, int] = field(default_factory=dict)
    _others: dict[str, int] = field(default_factory=dict)
    _known_calls: list[str] = field(default_factory=list)
    _calls: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for chunk in self.said:
            kind = chunk["type"]
            if kind == "TOOL_CALL_START":
                self._known_calls.append(str(chunk.get("toolCallId")))
            place = _place(chunk, str(chunk.get("toolCallId")))
            if kind in DELTAS:
                self._units[place] = self._units.get(place, 0) + _length(str(chunk.get("delta") or ""))
            else:
                self._others[place] = self._others.get(place, 0) + 1

    def of(self, chunk: Chunk) -> Chunk | None:
        """Return what is missing of the chunk, or None if the log holds it."""
        kind = chunk["type"]
        call_id = str(chunk.get("toolCallId"))
        if kind == "TOOL_CALL_START" and self._known_calls:
            self._calls[call_id] = self._known_calls.pop(0)
        if kind in _CALLS:
            call_id = self._calls.get(call_id, call_id)
            chunk = chunk | {"toolCallId": call_id}
        place = _place(chunk, call_id)
        if kind not in DELTAS:
            left = self._others.get(place, 0)
            self._others[place] = max(0, left - 1)
            return None if left else chunk
        left = self._units.get(place, 0)
        if not left:
            return chunk
        length = _length(chunk["delta"])
        self._units[place] = max(0, left - length)
        return None if left >= length else chunk | {"delta": _after(chunk["delta"], left)}


def _place(chunk: Chunk, call_id: str) -> str:
    """Return what the chunk adds to: its type, with the name of a CUSTOM chunk and the call of a call's."""
    kind = str(chunk["type"])
    return f"{kind} {call_id}" if kind in _CALLS else f"{kind} {chunk.get('name', '')}"


def _length(text: str) -> int:
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


def _after(text: str, units: int) -> str:
    return text.encode("utf-16-le", "surrogatepass")[2 * units :].decode("utf-16-le", "surrogatepass")
