"""
Fetch what a provider made from the provider's address, before the address expires.
"""

from __future__ import annotations

from durable_chat.generations.media import Media
from durable_chat.models.providers.failures import UNREACHABLE, TransientError

VIDEO_BYTES_MAX = 200 * 1024 * 1024
"""Largest file that is fetched from a provider: far above a video of 12 seconds. It is in memory once."""

FETCH_TIMEOUT_S = 60.0
"""Longest silence of a provider's file server."""


async def fetch(url: str, default_type: str, bytes_max: int = VIDEO_BYTES_MAX) -> Media | None:
    """Fetch a file. Return None if it is too large. Raises TransientError for every failure of the file server."""
    import httpx  # a start without OpenAI needs no HTTP client

    data = bytearray()
    try:
        async with (
            httpx.AsyncClient(timeout=FETCH_TIMEOUT_S, follow_redirects=True) as client,
            client.stream("GET", url) as answer,
        ):
            answer.raise_for_status()
            media_type = answer.headers.get("content-type", default_type)
            async for piece in answer.aiter_bytes():
                data += piece
                if len(data) > bytes_max:
                    return None
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise TransientError(*UNREACHABLE) from error
    return Media(bytes(data), media_type)
