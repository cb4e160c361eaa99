"""
Call an adapter's method, whatever kind of function it is.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from durable_chat.models.outputs import close_output, open_output
from durable_chat.transcripts.chunks import InvalidChunk


@asynccontextmanager
async def answering(method: Any, argument: Any) -> AsyncGenerator[AsyncIterator[Any], None]:
    """Iterate over what the method returns or yields. It is closed at the end. A plain function runs in a thread."""
    try:
        items = await open_output(method, argument)
    except InvalidChunk:  # it returned None
        items = _nothing()
    try:
        yield items
    finally:
        await close_output(items)


async def _nothing() -> AsyncIterator[Any]:
    return
    yield


async def answer_of(method: Any, argument: Any) -> Any:
    """Return the last item of what the method returns or yields; None if there is none."""
    last = None
    async with answering(method, argument) as items:
        async for item in items:
            last = item
    return last
