"""
Wait out the refusal of a provider that did nothing. After any other failure, a request is never repeated: it may have
been carried out, and would be paid for twice.
"""

from __future__ import annotations

import asyncio

from durable_chat.generations.adapters import RefusedError

ATTEMPTS_MAX = 3
"""Attempts of a request that the provider refuses for the moment."""

RETRY_AFTER_S_MAX = 30.0
"""Longest wait before the next one. A provider that asks for more is busy for longer than a person waits."""


async def wait_out(error: RefusedError, attempt: int) -> None:
    """Wait until the request may be sent again. Raises the error if it may not."""
    wait_s = error.retry_after_s
    if wait_s is None or wait_s > RETRY_AFTER_S_MAX or attempt >= ATTEMPTS_MAX:
        raise error
    await asyncio.sleep(wait_s)
