"""
Convert a model's answer, whatever its function returns, to an async iterator of items.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from typing import Any

from durable_chat.models.threads import Threaded
from durable_chat.transcripts.answers.items import ACCEPTED
from durable_chat.transcripts.chunks import InvalidChunk


async def open_output(model: Callable[[Any], Any], turn: Any) -> AsyncIterator[Any]:
    """
    Return the items of a model's answer. A model may be an async generator, an async function, a generator or a plain
    function. It may return an async iterator, an iterator, or one item. Plain functions and iterators run in their own
    thread, so that they do not block the event loop. Raises InvalidChunk if the model returns None.
    """
    if _runs_inline(model):
        output: Any = model(turn)
    else:
        output = await Threaded.call(model, turn)
    while inspect.isawaitable(output):
        output = await output
    return items_of(output)


def items_of(output: Any) -> AsyncIterator[Any]:
    """Return the items of an async iterator, an iterator or a single item. Raises InvalidChunk for None."""
    if hasattr(output, "__aiter__"):
        return aiter(output)
    if output is None:
        raise InvalidChunk(f"The model returned None. {ACCEPTED}")
    if isinstance(output, str | bytes | Mapping) or hasattr(output, "model_dump") or not isinstance(output, Iterable):
        return _single(output)
    return Threaded(iter(output))


async def close_output(items: Any) -> None:
    """Close what `open_output` returned, if it can be closed, so that the work behind it ends now."""
    close = getattr(items, "aclose", None)
    if close is not None:
        await close()


def _runs_inline(model: Callable[[Any], Any]) -> bool:
    """
    Whether to call the model on the event loop, because the call cannot block. A plain function that is annotated to
    return something asynchronous is trusted.
    """
    call = model if inspect.isroutine(model) else getattr(model, "__call__", model)  # noqa: B004 - of an object
    while hasattr(call, "func"):  # for a functools.partial
        call = call.func
    kinds = (inspect.isasyncgenfunction, inspect.iscoroutinefunction, inspect.isgeneratorfunction)
    if any(is_kind(call) for is_kind in kinds):
        return True
    annotation = getattr(call, "__annotations__", {}).get("return", "")
    return any(word in str(annotation) for word in ("Async", "Awaitable", "Coroutine"))


async def _single(item: Any) -> AsyncIterator[Any]:
    yield item
