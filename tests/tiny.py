"""Servers of a few lines, in the test's own event loop, for the loads of the benchmark."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from benchmarks.measures import Target
from tests.http.remotes import read_request


class Tiny:
    """Answers one request after the other on each connection."""

    def answer(self, method: str, address: str, body: bytes, writer: asyncio.StreamWriter) -> bool:
        """Whether the connection stays open."""
        raise NotImplementedError

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                asked = await read_request(reader)
                if "host" not in asked.headers:  # a load that leaves it out would be refused by every real server
                    break
                if not self.answer(asked.method, asked.target, asked.body, writer):
                    break
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def served(tiny: Tiny) -> AsyncIterator[Target]:
    server = await asyncio.start_server(tiny.serve, "127.0.0.1", 0)
    async with server:
        yield Target(server.sockets[0].getsockname()[1])


def write_chunked(writer: asyncio.StreamWriter, data: bytes) -> None:
    """In pieces of odd sizes, so that what the reader looks for is cut in two again and again."""
    for start in range(0, len(data), 37):
        piece = data[start : start + 37]
        writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
