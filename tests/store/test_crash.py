"""
The central promise: after kill -9 at any moment, nothing acknowledged or shown is lost.

A real server process, real sockets, and a load of writers and readers. The server is killed and restarted.
`scripts/crash` does so hundreds of times.
"""

from __future__ import annotations

import asyncio
import json
import random
from dataclasses import dataclass, field

import httpx

from tests.conftest import Serve
from tests.lines import alines_of
from tests.servers import Server
from tests.store.crash import kill_often

ROUNDS = 6
LARGE_KILLS = 3
WRITERS = 6
"""Of each kind; all plain writers share a stream, and all producers another."""
LIFE_S = (0.02, 0.5)
"""How long a server lives under load: from before the first flush to amid a compaction."""
SEED = 20_260_101


@dataclass
class Writer:
    """
    Mutable state: `next`, the number of its next message, and `acked`, the acknowledged ones. A producer repeats a
    message until it is acknowledged. A plain writer continues with the next, because it cannot know.
    """

    name: int
    url: str
    producer: bool
    next: int = 0
    acked: list[int] = field(default_factory=list)

    async def run(self, client: httpx.AsyncClient) -> None:
        while True:
            number = self.next
            if not self.producer:
                self.next += 1
            response = await client.post(self.url, content=self.body(number), headers=self.headers(number))
            assert response.status_code in (200, 204), response.text
            self.acked.append(number)
            if self.producer:
                self.next += 1

    def body(self, number: int) -> bytes:
        return json.dumps({"w": self.name, "n": number, "text": "x" * random.randint(0, 300)}).encode()

    def headers(self, number: int) -> dict[str, str]:
        headers = {"Content-Type": "application/json"}
        if self.producer:
            headers |= {"Producer-Id": f"w{self.name}", "Producer-Epoch": "0", "Producer-Seq": str(number)}
        return headers


@dataclass
class Watcher:
    """Mutable state: everything it was shown over all lives of the server, and where it continues."""

    url: str
    offset: str = "-1"
    seen: list[dict[str, object]] = field(default_factory=list)

    async def run(self, client: httpx.AsyncClient) -> None:
        query = {"offset": self.offset, "live": "sse"}
        shown: list[dict[str, object]] = []
        try:
            async with client.stream("GET", self.url, params=query) as response:
                async for line in alines_of(response):
                    if line.startswith("data:["):
                        shown = json.loads(line.removeprefix("data:"))
                        self.seen += shown
                    elif line.startswith("data:{"):
                        self.offset = json.loads(line.removeprefix("data:"))["streamNextOffset"]
                        shown = []
        finally:
            # Cut between an event and its control: it will be shown again from the old offset.
            del self.seen[len(self.seen) - len(shown) :]


async def read_all(client: httpx.AsyncClient, url: str) -> list[dict[str, object]]:
    messages: list[dict[str, object]] = []
    offset = "-1"
    while True:
        response = await client.get(url, params={"offset": offset})
        messages += response.json()
        offset = response.headers["Stream-Next-Offset"]
        if "Stream-Up-To-Date" in response.headers:
            return messages


async def live_and_die(server: Server, writers: list[Writer], watchers: list[Watcher], life_s: float) -> None:
    """One round: load the server and kill it. Every connection is cut."""
    async with httpx.AsyncClient(timeout=20, limits=httpx.Limits(max_connections=None)) as client:
        tasks = [asyncio.create_task(one.run(client)) for one in writers]
        tasks += [asyncio.create_task(one.run(client)) for one in watchers]
        await asyncio.sleep(life_s)
        await asyncio.to_thread(server.kill)
        done = await asyncio.gather(*tasks, return_exceptions=True)
    for outcome in done:
        assert outcome is None or isinstance(outcome, httpx.TransportError), repr(outcome)


def check(messages: list[dict[str, object]], writers: list[Writer], watcher: Watcher) -> None:
    for writer in writers:
        numbers = [message["n"] for message in messages if message["w"] == writer.name]
        assert numbers == sorted(set(numbers)), "a message is there twice, or out of order"  # type: ignore[type-var]
        assert set(writer.acked) <= set(numbers), "an acknowledged message is gone"
        if writer.producer:
            assert numbers == list(range(len(numbers))), "a producer's messages have a hole"
            assert len(numbers) - len(writer.acked) in (0, 1)
    assert watcher.seen == messages[: len(watcher.seen)], "a reader had been shown what is gone"


async def test_nothing_acknowledged_or_shown_is_lost(serve: Serve) -> None:
    """After each kill, every acknowledged append is there once and in order, with and without producer headers."""
    chance = random.Random(SEED)
    server = await asyncio.to_thread(serve)
    urls = {producer: f"{server.url}/v1/stream/{'produced' if producer else 'plain'}" for producer in (False, True)}
    writers = [Writer(n, urls[producer], producer) for producer in urls for n in range(WRITERS)]
    watchers = [Watcher(url) for url in urls.values()]
    async with httpx.AsyncClient() as client:
        for url in urls.values():
            assert (await client.put(url, headers={"Content-Type": "application/json"})).status_code == 201
    for _ in range(ROUNDS):
        await live_and_die(server, writers, watchers, chance.uniform(*LIFE_S))
        await asyncio.to_thread(server.start)
        async with httpx.AsyncClient(timeout=20) as client:
            for producer, watcher in zip(urls, watchers, strict=True):
                messages = await read_all(client, urls[producer])
                check(messages, [writer for writer in writers if writer.producer is producer], watcher)
    assert all(writer.acked for writer in writers)
    assert all(watcher.seen for watcher in watchers)


async def test_bodies_of_any_size_and_type_outlive_a_kill(serve: Serve) -> None:
    """This holds from 1 byte to 16 MiB, for JSON, text and bytes."""
    acked, kills = await kill_often(await asyncio.to_thread(serve), LARGE_KILLS, SEED)
    assert (acked > 0, kills) == (True, LARGE_KILLS)
