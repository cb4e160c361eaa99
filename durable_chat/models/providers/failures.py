"""
The failures of model providers, as they are shown. A provider's own text is never shown, because it may contain a key.
"""

from __future__ import annotations

from email.utils import parsedate_to_datetime
from math import isfinite
from time import time

from durable_chat.models.base import ProviderError

Shown = tuple[str, str]
"""The message of a failure, and its code."""

RATE_LIMITED = ("The AI provider's rate limit is reached. Try again in a minute.", "rate_limited")
OVERLOADED = ("The AI provider is overloaded. Try again in a minute.", "overloaded")
TIMEOUT = ("The AI provider did not answer in time.", "provider_timeout")
TOO_LARGE = ("The conversation is too large for the AI provider.", "request_too_large")
REFUSED = ("The AI provider refused the request.", "provider_refused_request")
FAILED = ("The AI provider failed to answer.", "provider_error")
DISCONNECTED = ("The connection to the AI provider was lost in the middle of the answer.", "provider_disconnected")
UNREACHABLE = ("The AI provider cannot be reached.", "provider_unreachable")
NO_MESSAGE = ("There is no message to answer.", "no_message")
GONE = ("The AI provider no longer has the rest of this answer.", "answer_expired")

_BY_STATUS = {
    400: REFUSED,
    401: ("The AI provider rejected the API key.", "invalid_api_key"),
    402: ("The account with the AI provider has no credit.", "billing"),
    403: ("The API key does not have permission for this request at the AI provider.", "permission_denied"),
    404: ("The AI provider does not know this model.", "model_not_found"),
    408: TIMEOUT,
    413: TOO_LARGE,
    422: REFUSED,
    429: RATE_LIMITED,
    504: TIMEOUT,
    529: OVERLOADED,
}

REFUSED_CODES = frozenset({REFUSED[1], TOO_LARGE[1]})
"""The codes of requests that may succeed when they contain less, for example no files."""


class TransientError(ProviderError):
    """
    A failure that the same request may not meet again. `retry_after_s` is how long the provider asks to wait, if it
    does.
    """

    def __init__(self, message: str, code: str = "provider_error", retry_after_s: float | None = None) -> None:
        super().__init__(message, code)
        self.retry_after_s = retry_after_s


def failure_of(status: int, retry_after: str | None = None) -> ProviderError:
    """Return the error to show for an HTTP status. `retry_after` is the header of this name."""
    shown = _BY_STATUS.get(status, FAILED)
    if status == 429 or status >= 500:
        return TransientError(*shown, retry_after_s=seconds_of(retry_after))
    return ProviderError(*shown)


def unreachable() -> TransientError:
    return TransientError(*UNREACHABLE)


def timed_out() -> TransientError:
    return TransientError(*TIMEOUT)


def disconnected() -> TransientError:
    """Return the error of an answer that was cut. Before its first token, the request may be repeated."""
    return TransientError(*DISCONNECTED)


def seconds_of(retry_after: str | None) -> float | None:
    """Return the seconds that a Retry-After header names (RFC 9110, 10.2.3), or None if it names none."""
    if not retry_after:
        return None
    try:
        seconds = float(retry_after)
        return max(0.0, seconds) if isfinite(seconds) else None
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(retry_after).timestamp() - time())
    except ValueError:
        return None
