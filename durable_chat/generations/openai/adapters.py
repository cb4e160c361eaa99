"""
What OpenAI's adapters have in common: the key, the connections and the failures.

The package's own retries are turned off: it repeats requests whose answer was lost, and each may be paid for.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar

from durable_chat.errors import Unauthorized
from durable_chat.generations.adapters import RefusedError, TransientError
from durable_chat.models.base import ProviderError
from durable_chat.models.openai.client import KEY_VARIABLE, NO_KEY, URL_DEFAULT, URL_VARIABLE
from durable_chat.models.openai.errors import error_of
from durable_chat.models.providers import failures
from durable_chat.models.providers.connections import Pools, check_provider_key

if TYPE_CHECKING:  # the package takes a second to import
    from openai import AsyncOpenAI

T = TypeVar("T")

REQUEST_TIMEOUT_S = 300.0
"""Longest silence of a request. A picture of high quality takes two minutes."""

RATE_LIMIT_WAIT_S = 2.0
"""Wait after a rate limit that does not say how long it lasts."""

# What an HTTP client raises before it has sent anything: the names are the same in all versions of it.
_NOT_SENT = frozenset({"ConnectError", "ConnectTimeout", "PoolTimeout"})
_NOT_DONE = frozenset({408, 409})
"""Statuses under 500 that do not say whether the request was carried out."""


_UNREADABLE = (AttributeError, IndexError, KeyError, TypeError, ValueError)
"""What reading an answer raises that is not JSON or has other fields, for example one of a proxy."""


class OpenAIAdapter:
    """An adapter with a key and connections. State: one connection pool for each event loop, shared by all keys."""

    provider: ClassVar[str] = "openai"

    def __init__(self, model: str, *, key: str | None = None, base_url: str | None = None) -> None:
        """Create an adapter. `key` and `base_url` default to OPENAI_API_KEY and OPENAI_BASE_URL."""
        self.model = model
        self._url = base_url or os.environ.get(URL_VARIABLE, "").strip() or None
        self._key = key or os.environ.get(KEY_VARIABLE, "").strip() or None
        self._is_own_key = False
        self._pools = Pools(_new_pool)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.model!r})"

    @property
    def secrets(self) -> tuple[str, ...]:
        """The adapter's own key, which must never be shown."""
        return (self._key,) if self._key else ()

    def with_key(self, key: str) -> Self:
        """Return the adapter for a user's own key, on the same connections."""
        made = copy.copy(self)
        vars(made).update(_key=key, _is_own_key=True)
        return made

    def check(self, api_key: str | None) -> None:
        """Check a user's key, or this adapter's. Raises Unauthorized. Another server than OpenAI's may need no key."""
        key = api_key or self._key
        if key or self._url is None:
            check_provider_key(key, KEY_VARIABLE)

    async def prepare(self) -> None:
        """Import the package. Raises ProviderError without a key."""
        await self._client()

    async def aclose(self) -> None:
        """Close the connections of the current event loop."""
        await self._pools.aclose()

    async def ask(self, request: Callable[[AsyncOpenAI], Awaitable[Any]], read: Callable[[Any], T]) -> T:
        """
        Make one request and read its answer. Raises RefusedError if the provider certainly did nothing, TransientError
        if nobody knows, and ProviderError without a key. The provider's text is never shown.
        """
        client = await self._client()
        import openai

        try:
            return read(await request(client))
        except openai.APIStatusError as error:
            raise refusal(error.status_code, error.code, error.response.headers.get("retry-after")) from None
        except openai.APITimeoutError as error:
            raise _lost(error, failures.TIMEOUT) from None
        except openai.APIConnectionError as error:
            raise _lost(error, failures.UNREACHABLE) from None
        except (openai.OpenAIError, *_UNREADABLE) as error:
            raise TransientError(*failures.FAILED) from error

    async def _client(self) -> AsyncOpenAI:
        try:
            self.check(None)
        except Unauthorized as error:  # in a run, only a ProviderError is shown
            raise ProviderError(error.message, error.code) from None
        pool = await self._pools.get()
        from openai import AsyncOpenAI

        client = AsyncOpenAI(
            api_key=self._key or NO_KEY,
            base_url=self._url or URL_DEFAULT,
            max_retries=0,
            timeout=REQUEST_TIMEOUT_S,
            http_client=pool,
        )
        if self._is_own_key:  # the environment's organization is not that of a user's own key
            client.organization = client.project = None
        return client


def refusal(status: int, code: str | None, retry_after: str | None) -> ProviderError:
    """Return the error of a status. Below 500, the provider did nothing, with two exceptions."""
    shown = error_of(status, code, retry_after)
    if status >= 500 or status in _NOT_DONE:
        return TransientError(shown.message, shown.code)
    wait_s = None
    if isinstance(shown, TransientError):  # a rate limit, and not an account without credit
        wait_s = RATE_LIMIT_WAIT_S if shown.retry_after_s is None else shown.retry_after_s
    return RefusedError(shown.message, shown.code, retry_after_s=wait_s)


def _lost(error: Exception, shown: failures.Shown) -> ProviderError:
    """Return the error of a lost connection. What was never sent may be sent again."""
    if type(error.__cause__).__name__ in _NOT_SENT:
        return RefusedError(*failures.UNREACHABLE, retry_after_s=RATE_LIMIT_WAIT_S)
    return TransientError(*shown)


def _new_pool() -> Any:
    """Create the package's HTTP client. The import takes a second, and reading the certificates takes time too."""
    from openai import DefaultAsyncHttpxClient

    return DefaultAsyncHttpxClient()
