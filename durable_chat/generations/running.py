"""
Run a generation: yield its chunks without RUN_STARTED and RUN_FINISHED, and its result last.

This is what the runs of sessions and the activities have in common. The result is an object with files, so that the
caller decides where bytes are kept.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any, Protocol

from durable_chat.generations.adapters import Adapter, RefusedError, TransientError, check_input, with_key
from durable_chat.generations.answers import answering
from durable_chat.generations.events import PROGRESS, custom, now_ms
from durable_chat.generations.fetching import fetch as download
from durable_chat.generations.inputs import Input, VideoInput
from durable_chat.generations.refusals import wait_out
from durable_chat.generations.results import (
    ImageResult,
    Progress,
    Result,
    SpeechResult,
    SummaryResult,
    TranscriptionResult,
)
from durable_chat.generations.videos import Item, Polling, order_video, resume_video
from durable_chat.models.base import ProviderError
from durable_chat.transcripts import chunks
from durable_chat.transcripts.chunks import Chunk

log = logging.getLogger(__name__)

POLLING_DEFAULT = Polling()


async def _nothing_to_save() -> None:
    """Outside a session nothing is written."""


class RunContext(Protocol):
    """What a generation must know of its run. A Turn is one."""

    @property
    def session_id(self) -> str: ...

    @property
    def run_id(self) -> str: ...

    @property
    def api_key(self) -> str | None: ...

    @property
    def saved(self) -> Callable[[], Awaitable[None]]: ...


@dataclass(frozen=True, slots=True)
class Outside:
    """The context of a generation outside a session: nothing is stored."""

    session_id: str
    run_id: str
    api_key: str | None = field(default=None, repr=False)
    saved: Callable[[], Awaitable[None]] = field(default=_nothing_to_save, repr=False, compare=False)


def run_generation(
    adapter: Adapter, request: Input, context: RunContext, *, polling: Polling = POLLING_DEFAULT
) -> AsyncGenerator[Item, None]:
    """
    Generate: yield chunks and, last, the result. Close the generator to stop.

    A video is ordered in three steps. First the chunk `CUSTOM durable-chat.video-ordering` is yielded and
    `context.saved()` awaited. Then the order is made, `video:job:created` yielded and `saved()` awaited again. Only
    then is the job polled. The result of a video has its file.

    Raises InvalidRequest and TooLarge at once, before the provider is asked, and ProviderError for its failures.
    """
    check_input(adapter, request)
    mine: Any = with_key(adapter, context.api_key)
    if isinstance(request, VideoInput):
        return order_video(mine, request, context.saved, polling, own_key=mine is not adapter)
    return _generate(mine, request, context, fetch=polling.fetch)


def resume_generation(
    adapter: Adapter, request: Input, context: RunContext, said: Sequence[Chunk], *, polling: Polling = POLLING_DEFAULT
) -> AsyncGenerator[Item, None] | None:
    """
    Go on with a generation whose process died. `said` are its chunks in the log. A video job is polled again; a video
    that was never ordered is ordered; one that may have been ordered ends with ProviderError `order_unknown`, and one
    that was ordered with a user's own key with `key_missing`, unless the context has the key. Return None for other
    activities, whose requests ended with the process.
    """
    if not isinstance(request, VideoInput):
        return None
    check_input(adapter, request)
    mine: Any = with_key(adapter, context.api_key)
    return resume_video(mine, request, context.saved, said, polling, own_key=mine is not adapter)


async def _generate(adapter: Any, request: Any, context: RunContext, *, fetch: bool) -> AsyncGenerator[Item, None]:
    """Generate, again if the provider refused for the moment. A picture at the provider's address is fetched."""
    for attempt in count(1):
        begun = False
        try:
            async with aclosing(_once(adapter, request, context)) as items:
                async for item in items:
                    begun = True
                    yield await _fetched(item) if fetch and isinstance(item, ImageResult) else item
            return
        except RefusedError as error:
            if begun:
                raise
            await wait_out(error, attempt)


async def _once(adapter: Any, request: Any, context: RunContext) -> AsyncGenerator[Item, None]:
    """Convert what the adapter yields: Progress and text to chunks, and the result as it is."""
    message_id = f"msg-{context.run_id}"
    begun = False
    result: Result | None = None
    async with answering(adapter.generate, request) as items:
        async for item in items:
            if isinstance(item, Progress):
                yield custom(PROGRESS, item.as_json())
            elif isinstance(item, str):
                if not begun:
                    yield chunks.text_start(message_id, timestamp=now_ms())
                    begun = True
                if item:
                    yield chunks.text_content(message_id, item, timestamp=now_ms())
            elif isinstance(item, ImageResult | SpeechResult | TranscriptionResult | SummaryResult):
                result = item
            else:
                raise ProviderError("The adapter yielded something that is no result.", "invalid_result")
    if begun:
        yield chunks.text_end(message_id, timestamp=now_ms())
    if result is None:
        raise ProviderError("The adapter ended without a result.", "no_result")
    yield result


async def _fetched(result: ImageResult) -> ImageResult:
    """Return the result with the files of pictures that only have an address. One that cannot be fetched keeps it."""
    images = []
    for image in result.images:
        media = image.media
        if media is None and image.url is not None:
            try:
                media = await download(image.url, "image/png")
            except TransientError:
                log.warning("A picture could not be fetched from its provider; its address may expire.")
        images.append(replace(image, media=media))
    return replace(result, images=tuple(images))
