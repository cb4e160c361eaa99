"""A provider whose responses the test decides, byte for byte."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Asked:
    path: str
    body: Any
    headers: Mapping[str, str]


class Script:
    """
    One response after the other; the last one is repeated. A response is a list of events, or one JSON value with a
    status. State: the requests so far; whether a client has left a response that `hangs`.
    """

    def __init__(
        self, response: Any, *, status: int = 200, headers: Mapping[str, str] | None = None, hangs: bool = False
    ) -> None:
        self.asked: list[Asked] = []
        self.left = asyncio.Event()
        self._responses = [(response, status, headers or {}, hangs)]

    def then(
        self, response: Any, *, status: int = 200, headers: Mapping[str, str] | None = None, hangs: bool = False
    ) -> Script:
        self._responses.append((response, status, headers or {}, hangs))
        return self

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._serve(reader, writer)
        finally:
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().strip().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        at = min(len(self.asked), len(self._responses) - 1)
        self.asked.append(Asked(head.split()[1], json.loads(body) if body else None, headers))
        response, status, more, hangs = self._responses[at]
        kind = "text/event-stream" if isinstance(response, Sequence) else "application/json"
        sent = {"content-type": kind, "connection": "close", **more}
        writer.write(f"HTTP/1.1 {status} X\r\n".encode())
        writer.write("".join(f"{name}: {value}\r\n" for name, value in sent.items()).encode() + b"\r\n")
        events = response if isinstance(response, list) else []
        for event in events:
            writer.write(f"event: {event.get('type', 'message')}\ndata: {json.dumps(event)}\n\n".encode())
        if not isinstance(response, list):
            writer.write(json.dumps(response).encode())
        await writer.drain()
        if hangs:
            await reader.read()
            self.left.set()


@asynccontextmanager
async def scripted(script: Script) -> AsyncIterator[str]:
    """Serve the script. The address is what OPENAI_BASE_URL takes."""
    server = await asyncio.start_server(script.serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
