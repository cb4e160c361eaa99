"""
OpenAI's failures, translated to errors that are safe to show.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

from durable_chat.models.base import ProviderError
from durable_chat.models.providers import failures, translation

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


def translated(
    ask: Callable[[], Awaitable[Any]], check: Callable[[Any], None], is_last: Callable[[Any], bool]
) -> AsyncGenerator[Any, None]:
    """
    Yield the events of a stream that `ask` opens, see `translation.translated`. Raises ProviderError for what `check`
    finds in an event, too.
    """
    import openai

    def checked(event: Any) -> bool:
        check(event)
        return is_last(event)

    return translation.translated(translation.Package(openai, openai.OpenAIError, _shown), ask, checked)


def _shown(error: Any) -> ProviderError:
    """Return the error to show. An error in the middle of an answer has no status."""
    if getattr(error, "status_code", None) is None:
        return error_of(None, error.code or error.type)
    return _refusal(error)


def _refusal(error: Any) -> ProviderError:
    if error.status_code == 400 and str(error.param or "").startswith("reasoning"):
        return ReasoningRefused(by_model=error.code == "unsupported_parameter")
    return error_of(error.status_code, error.code, error.response.headers.get("retry-after"))
