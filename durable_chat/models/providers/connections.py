"""
The connections to a model provider, and the keys for it. A provider's package is imported when it is first used.
"""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

from durable_chat.errors import StartError, Unauthorized


class Pools:
    """The HTTP connections of a provider. State: one pool for each event loop, shared by all keys."""

    def __init__(self, make: Callable[[], Any]) -> None:
        """`make` imports the package and returns its HTTP client. It runs in a thread, because it takes a second."""
        self._make = make
        self._pools: WeakKeyDictionary[asyncio.AbstractEventLoop, Any] = WeakKeyDictionary()

    async def get(self) -> Any:
        """Return the pool of the current event loop."""
        loop = asyncio.get_running_loop()
        if loop not in self._pools:
            pool = await asyncio.to_thread(self._make)
            self._pools.setdefault(loop, pool)
        return self._pools[loop]

    async def aclose(self) -> None:
        """Close the connections of the current event loop."""
        pool = self._pools.pop(asyncio.get_running_loop(), None)
        if pool is not None:
            await pool.aclose()


def check_provider_key(key: str | None, variable: str) -> None:
    """Raise Unauthorized when there is no key, or it contains characters that a header cannot carry."""
    if not key:
        message = f"This model needs an API key. Set {variable}, or send a key in the x-api-key header."
        raise Unauthorized(message, code="missing_api_key")
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise Unauthorized("The API key contains invalid characters, such as spaces.", code="invalid_api_key")


def is_installed(extra: str) -> bool:
    """Return whether a provider's package is installed. It has the name of the extra that installs it."""
    return all(importlib.util.find_spec(name) is not None for name in (extra, "stamina"))


def require_package(extra: str, model: str) -> None:
    """Raise StartError when the package of a provider is missing."""
    if not is_installed(extra):
        install = f"pip install 'durable-chat[{extra}]'"
        raise StartError(f"The model {model} needs the package {extra}, which is not installed. Run: {install}")
