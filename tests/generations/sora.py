"""
A provider of videos with OpenAI's wire format, whose failures the test decides. npm's aimock has no progress, no failed
polls and no download for OpenAI's videos.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

CLIP = b"\x1a\x45\xdf\xa3 a clip"
CUT = "cut"
"""The connection ends without a response, after the request has come."""


class Sora:
    """
    State: the orders it has taken (their fields), the requests it saw, the keys. `faults` are what happens to the next
    requests of a method: a status, with headers, or CUT; an order that is cut is taken.
    """

    def __init__(self, *, polls: int = 2, failure: str | None = None) -> None:
        self.polls = polls
        self.failure = failure
        self.orders: list[str] = []
        self.seen: list[str] = []
        self.keys: list[str] = []
        self.polled = 0
        self.faults: dict[str, list[Any]] = {}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().strip().split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
            body = await reader.readexactly(int(headers.get("content-length", 0)))
            method, path, _ = head.split()
            self.seen.append(f"{method} {path.partition('?')[0]}")
            self.keys.append(headers["authorization"])
            fault = self._fault(method, path)
            if fault != CUT:
                self._answer(writer, method, path, body, fault)
                await writer.drain()
            elif method == "POST":
                self.orders.append(body.decode("latin-1"))
        finally:
            writer.close()

    def _fault(self, method: str, path: str) -> Any:
        waiting = self.faults.get("CONTENT" if "/content" in path else method)
        return waiting.pop(0) if waiting else None

    def _answer(self, writer: asyncio.StreamWriter, method: str, path: str, body: bytes, fault: Any) -> None:
        status, headers = fault if isinstance(fault, tuple) else (fault or 200, {})
        kind, sent = "application/json", json.dumps({"error": {"message": "no: sk-secret", "code": None}}).encode()
        if status == 200 and "/content" in path:
            kind, sent = "video/mp4", CLIP
        elif status == 200:
            if method == "POST":
                self.orders.append(body.decode("latin-1"))
            self.polled += method == "GET"
            sent = json.dumps(self._job(path)).encode()
        head = {"content-type": kind, "content-length": str(len(sent)), "connection": "close", **headers}
        writer.write(f"HTTP/1.1 {status} X\r\n".encode())
        writer.write("".join(f"{name}: {value}\r\n" for name, value in head.items()).encode() + b"\r\n" + sent)

    def _job(self, path: str) -> dict[str, Any]:
        states = ["queued", *["in_progress"] * (self.polls - 1)]
        done = self.polled > self.polls
        status = ("failed" if self.failure else "completed") if done else states[max(0, self.polled - 1)]
        error = {"code": "x", "message": self.failure} if done and self.failure else None
        job = {
            "id": "video_1",
            "object": "video",
            "model": "sora-2",
            "created_at": 1,
            "size": "1280x720",
            "seconds": "8",
        }
        progress = 100 * self.polled // (self.polls + 1)
        return job | {
            "status": status,
            "progress": progress,
            "error": error,
            "expires_at": 1893456000 if done else None,
        }


@asynccontextmanager
async def serving(sora: Sora) -> AsyncIterator[str]:
    """Serve it. The address is what OPENAI_BASE_URL takes."""
    server = await asyncio.start_server(sora.serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
