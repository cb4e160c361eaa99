"""
Kill a server again and again during appends of 1 byte to 16 MiB, of all content types: `scripts/crash --kills 200`.

After each kill, every acknowledged append must be there, whole and in order. Other appends may be there.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from durable_chat.protocol.messages import BINARY, JSON
from tests.servers import Server

TYPES = (BINARY, "text/plain", JSON)
WRITERS_PER_TYPE = 2
LIFE_S = (0.05, 1.0)
"""How long a server lives under load: from before the first flush to amid a compaction."""
STREAM_KILLS = 8
"""A stream is deleted after so many kills: reading all of it after each of them takes the time."""
SIZES = ((1, 1_000), (1, 1_000), (1, 1_000), (60_000, 70_000), (1_000_000, 1_100_000), (1, 16 * 1024 * 1024))
TEXT = bytes(random.Random(2).choices(b"abcdefghijklmnopqrstuvwxyz ", k=1 << 20)) * 17


@dataclass
class LargeWriter:
    """Mutable state: the number of its next body, and the acknowledged numbers."""

    name: str
    content_type: str
    url: str
    next: int = 0
    acked: set[int] = field(default_factory=set)

    def body(self, number: int) -> bytes:
        """The body of a number. It is always the same, so that it need not be kept."""
        chance = random.Random(f"{self.name} {number}")
        size = chance.randint(*chance.choice(SIZES))
        start = chance.randrange(1 << 20)
        if self.content_type != JSON:
            return TEXT[start : start + size]
        return b'"' + TEXT[start : start + max(0, size - 2)] + b'"'

    async def run(self, client: httpx.AsyncClient) -> None:
        headers = {"Content-Type": self.content_type}
        while True:
            number, self.next = self.next, self.next + 1
            response = await client.post(self.url, content=self.body(number), headers=headers)
            assert response.status_code in (200, 204), response.text
            self.acked.add(number)

    async def check(self, client: httpx.AsyncClient) -> None:
        data, at = await read_all(client, self.url), 0
        comma = len(b",") if self.content_type == JSON else 0
        for number in range(self.next):
            body = self.body(number)
            if data.startswith(body, at) and (not comma or data[at + len(body) : at + len(body) + 1] in (b",", b"")):
                at += len(body) + comma
            else:
                assert number not in self.acked, f"{self.name}: the acknowledged body {number} is lost, at {at}"
        assert at >= len(data), f"{self.name}: {len(data) - at} bytes that nobody has written"


async def read_all(client: httpx.AsyncClient, url: str) -> bytes:
    parts, offset = [], "-1"
    while True:
        response = await client.get(url, params={"offset": offset})
        assert response.status_code == 200, response.text
        is_json = response.headers["Content-Type"].startswith(JSON)
        parts.append(response.content[1:-1] if is_json else response.content)
        offset = response.headers["Stream-Next-Offset"]
        if "Stream-Up-To-Date" in response.headers:
            return (b"," if is_json else b"").join(filter(None, parts))


async def begin(client: httpx.AsyncClient, server: Server, turn: int) -> list[LargeWriter]:
    """Make new streams. Their lives have pauses, in which they are compacted before a large append."""
    writers = []
    for content_type in TYPES:
        for n in range(WRITERS_PER_TYPE):
            name = f"{turn}-{content_type.replace('/', '-')}-{n}"
            writers.append(LargeWriter(name, content_type, f"{server.url}/v1/stream/{name}"))
            made = await client.put(writers[-1].url, headers={"Content-Type": content_type})
            assert made.status_code == 201, made.text
    return writers


async def kill_often(
    server: Server, kills: int, seed: int, tell: Callable[[int, int], None] = lambda kills, acked: None
) -> tuple[int, int]:
    """
    Return the number of acknowledged appends and of kills. `tell` is called with both after each kill. The server runs
    before and afterwards.
    """
    chance = random.Random(seed)
    acked = 0
    writers: list[LargeWriter] = []
    for kill in range(kills):
        async with httpx.AsyncClient(timeout=60) as client:
            if kill % STREAM_KILLS == 0:
                acked += sum(len(writer.acked) for writer in writers)
                for writer in writers:
                    assert (await client.delete(writer.url)).status_code == 204
                writers = await begin(client, server, kill)
            tasks = [asyncio.create_task(writer.run(client)) for writer in writers]
            await asyncio.sleep(chance.uniform(*LIFE_S))
            await asyncio.to_thread(server.kill)
            for outcome in await asyncio.gather(*tasks, return_exceptions=True):
                assert isinstance(outcome, httpx.TransportError), repr(outcome)
        await asyncio.to_thread(server.start)
        async with httpx.AsyncClient(timeout=60) as client:
            for writer in writers:
                await writer.check(client)
        tell(kill + 1, acked + sum(len(writer.acked) for writer in writers))
    return acked + sum(len(writer.acked) for writer in writers), kills


def tell(kills: int, acked: int) -> None:
    print(f"{kills} kills, {acked} acknowledged, 0 lost", file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Kill a server amid appends of 1 byte to 16 MiB.")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    begun_s = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder), {"DURABLE_CHAT_MODEL": "demo"})
        server.start()
        try:
            acked, kills = asyncio.run(kill_often(server, options.kills, options.seed, tell))
        finally:
            server.kill()
    print(f"{kills} kills, {acked} acknowledged appends, 0 lost, in {time.monotonic() - begun_s:.0f} s")


if __name__ == "__main__":
    main()
