"""
The failures of a provider's package, translated to errors that are safe to show.

The packages `anthropic` and `openai` are made by the same generator, so their exceptions have the same names.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from durable_chat.models.base import ProviderError
from durable_chat.models.providers import failures


@dataclass(frozen=True, slots=True)
class Package:
    """
    A provider's package: the module, the base of all its exceptions, and the error to show for an `APIError` of it.
    """

    module: Any
    base: type[Exception]
    shown: Callable[[Any], ProviderError]


async def translated(
    package: Package, ask: Callable[[], Awaitable[Any]], is_last: Callable[[Any], bool]
) -> AsyncGenerator[Any, None]:
    """
    Yield the events of a stream that `ask` opens. It closes at once when its reader stops. Raises ProviderError for
    every failure, and for a stream that ends before its last event. `is_last` may raise one for what an event says.
    """
    module = package.module
    begun = ended = False
    try:
        stream = await ask()
        begun = True
        async with stream:
            async for event in stream:
                ended = is_last(event) or ended
                yield event
    except ProviderError:
        raise
    except module.APITimeoutError:
        raise failures.timed_out() from None
    except module.APIConnectionError:
        raise (failures.disconnected() if begun else failures.unreachable()) from None
    except module.APIError as error:
        raise package.shown(error) from None
    except package.base:
        raise ProviderError(*failures.FAILED) from None
    except Exception:
        # In the middle of an answer, the package passes on exceptions of its HTTP client and its JSON parser.
        if begun:
            raise failures.disconnected() from None
        raise
    if not ended:  # the stream ended cleanly, but the answer is incomplete
        raise failures.disconnected()
