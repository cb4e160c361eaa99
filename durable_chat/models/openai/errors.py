"""
OpenAI's failures, translated to errors that are safe to show.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

from durable_chat.models.base import ProviderError
from durable_chat.models.providers import failures

# The HTTP status that a code stands for. In the middle of an answer there is no status, and a status 429 may also mean
# that the account has no credit.
_BY_CODE = {
    "billing_hard_limit_reached": 402,
    "context_length_exceeded": 413,
    "insufficient_quota": 402,
    "invalid_api_key": 401,
    "invalid_prompt": 400,
    "model_not_found": 404,
    "rate_limit_exceeded": 429,
    "server_error": 500,
}


class ReasoningRefused(ProviderError):
    """The provider does not summarize the reasoning. `by_model` says whether no key changes that."""

    def __init__(self, by_model: bool) -> None:
        super().__init__(*failures.REFUSED)
        self.by_model = by_model


def error_of(status: int | None, code: str | None, retry_after: str | None = None) -> ProviderError:
    """Return the error to show for an HTTP status, or None in the middle of an answer, and the provider's code."""
    if status is None and code is not None and "image" in code:
        status = 400
    return failures.failure_of(_BY_CODE.get(code or "", status or 500), retry_after)


async def translated(
    ask: Callable[[], Awaitable[Any]], check: Callable[[Any], None], is_last: Callable[[Any], bool]
) -> AsyncGenerator[Any, None]:
    """
    Yield the events of a stream that `ask` opens. It closes at once when its reader stops. Raises ProviderError for
    every failure, for one that `check` finds in an event, and for a stream that ends before its last event.
    """
    import openai

    begun = ended = False
    try:
        stream = await ask()
        begun = True
        async with stream:
            async for event in stream:
                check(event)
                ended = ended or is_last(event)
                yield event
    except ProviderError:
        raise
    except openai.APIStatusError as error:
        raise _refusal(error) from None
    except openai.APITimeoutError:
        raise failures.timed_out() from None
    except openai.APIConnectionError:
        raise (failures.disconnected() if begun else failures.unreachable()) from None
    except openai.APIError as error:
        raise error_of(None, error.code or error.type) from None
    except openai.OpenAIError:
        raise ProviderError(*failures.FAILED) from None
    except Exception:
        # In the middle of an answer, the package passes on exceptions of its HTTP client and its JSON parser.
        if begun:
            raise failures.disconnected() from None
        raise
    if not ended:  # the stream ended cleanly, but the answer is incomplete
        raise failures.disconnected()


def _refusal(error: Any) -> ProviderError:
    if error.status_code == 400 and str(error.param or "").startswith("reasoning"):
        return ReasoningRefused(by_model=error.code == "unsupported_parameter")
    return error_of(error.status_code, error.code, error.response.headers.get("retry-after"))
