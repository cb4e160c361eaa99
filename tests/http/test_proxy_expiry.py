"""The read proxy when a reader's permission expires, with remotes that answer late, in part or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest

from durable_chat.config.settings import Settings
from tests.http.remotes import (
    SOON_S,
    START,
    Behaviour,
    Heard,
    Remote,
    Wire,
    control,
    data,
    proxy,
    reader_client,
    remote,
    silent,
    speaking,
    upstream_at,
)

# How long a reader may read: short, because tests wait for it; long enough for a request to arrive.
ALLOWED_S = 0.5


@asynccontextmanager
async def between(behaviour: Behaviour) -> AsyncIterator[tuple[Remote, str, httpx.AsyncClient]]:
    async with (
        remote(behaviour) as told,
        upstream_at(told.url) as upstream,
        proxy(upstream, Settings(), allowed_s=ALLOWED_S) as before,
        reader_client() as client,
    ):
        yield told, f"{before.url}/chat-a", client


async def test_long_poll_gives_its_offset_back() -> None:
    """
    At expiry, a waiting long-poll gets an empty response with its offset, and the connection to the remote is closed.
    """
    async with between(silent) as (told, url, client):
        query = {"offset": "7_7", "live": "long-poll", "cursor": "12"}
        answer = await client.get(url, params=query)
        assert answer.status_code == 204
        assert answer.headers["stream-next-offset"] == "7_7"
        assert answer.headers["stream-cursor"] == "12"
        assert answer.headers["stream-up-to-date"] == "true"
        assert answer.headers["cache-control"] == "private, no-cache"
        await asyncio.wait_for(told.wires[0].gone.wait(), SOON_S)


@pytest.mark.parametrize("query", [{"offset": "now", "live": "long-poll"}, {"offset": START, "live": "sse"}])
async def test_no_offset_to_give(query: dict[str, str]) -> None:
    """Without an offset to return, or before a response has begun, the reader gets an error that names the expiry."""
    async with between(silent) as (_, url, client):
        answer = await client.get(url, params=query)
        assert (answer.status_code, answer.json()["code"]) == (401, "expired_token")


async def test_events_end_between_groups() -> None:
    """At expiry, an open response ends behind its last complete group of events."""
    async with between(speaking(data("[1]") + control(START))) as (told, url, client):
        answer = await client.get(url, params={"offset": START, "live": "sse"})
        assert answer.content == data("[1]") + control(START)
        await asyncio.wait_for(told.wires[0].gone.wait(), SOON_S)


async def test_half_a_group_is_cut() -> None:
    """At expiry, an incomplete group of events ends with a broken connection, so that the reader discards it."""
    async with between(speaking(data("[1]"))) as (_, url, client):
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get(url, params={"offset": START, "live": "sse"})


async def test_plain_read_is_finished() -> None:
    """A plain read that was allowed when it began is completed however long it takes."""
    over = asyncio.get_running_loop().time() + ALLOWED_S

    async def behave(_: Heard, wire: Wire) -> None:
        await wire.begin({"Content-Type": "application/json", "Stream-Next-Offset": START})
        await wire.chunk(b"[1,")
        await asyncio.sleep(over - asyncio.get_running_loop().time() + 0.1)
        await wire.chunk(b"2]")
        await wire.end()

    async with between(behave) as (_, url, client):
        assert (await client.get(url)).json() == [1, 2]
