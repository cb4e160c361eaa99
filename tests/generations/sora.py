"""
A provider of videos with OpenAI's wire format, whose failures the test decides. npm's aimock has no progress, no failed
polls and no download for OpenAI's videos.

`python -m tests.generations.sora PORT SEED` serves it as a process of its own, which outlives the servers that order.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.servers import Process

CLIP = b"\x1a\x45\xdf\xa3 a clip"
CUT = "cut"
"""The connection ends without a response, after the request has come."""

PAUSE_MAX_S = 0.4
"""The longest pause of the process before a response. The server may be killed while it waits for it."""

BOOKS = "/books"
"""Where the process tells the orders that it has taken."""


class Sora:
    """
    State: the orders it has taken (their fields), how often each job was polled, the requests it saw, the keys.
    `faults` are what happens to the next requests of a method: a status, with headers, or CUT; an order that is cut is
    taken. `pause_s` is asked before each response how long it takes.
    """

    def __init__(
        self, *, polls: int = 2, failure: str | None = None, pause_s: Callable[[], float] = lambda: 0.0
    ) -> None:
        self.polls = polls
        self.failure = failure
        self.orders: list[str] = []
        self.seen: list[str] = []
        self.keys: list[str] = []
        self.polled: Counter[str] = Counter()
        self.faults: dict[str, list[Any]] = {}
        self._pause_s = pause_s

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().strip().split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
            body = await reader.readexactly(int(headers.get("content-length", 0)))
            method, path, _ = head.split()
            if path == BOOKS:
                writer.write(_response(200, json.dumps(self.orders).encode()))
                return
            self.seen.append(f"{method} {path.partition('?')[0]}")
            self.keys.append(headers["authorization"])
            fault = self._fault(method, path)
            if fault != CUT:
                response = self._answer(method, path, body, fault)
                await asyncio.sleep(self._pause_s())
                writer.write(response)
                await writer.drain()
            elif method == "POST":
                self.orders.append(body.decode("latin-1"))
        except ConnectionError:
            pass  # the client was killed
        finally:
            writer.close()

    def _fault(self, method: str, path: str) -> Any:
        waiting = self.faults.get("CONTENT" if "/content" in path else method)
        return waiting.pop(0) if waiting else None

    def _answer(self, method: str, path: str, body: bytes, fault: Any) -> bytes:
        status, headers = fault if isinstance(fault, tuple) else (fault or 200, {})
        if status != 200:
            refusal = {"error": {"message": "no: sk-secret", "code": None}}
            return _response(status, json.dumps(refusal).encode(), headers)
        if "/content" in path:
            return _response(200, CLIP, {"content-type": "video/mp4"})
        if method == "POST":
            self.orders.append(body.decode("latin-1"))
            job_id = f"video_{len(self.orders)}"
        else:
            job_id = path.rpartition("/")[2]
        self.polled[job_id] += method == "GET"
        return _response(200, json.dumps(self._job(job_id)).encode(), headers)

    def _job(self, job_id: str) -> dict[str, Any]:
        polled = self.polled[job_id]
        states = ["queued", *["in_progress"] * (self.polls - 1)]
        done = polled > self.polls
        status = ("failed" if self.failure else "completed") if done else states[max(0, polled - 1)]
        error = {"code": "x", "message": self.failure} if done and self.failure else None
        job = {
            "id": job_id,
            "object": "video",
            "model": "sora-2",
            "created_at": 1,
            "size": "1280x720",
            "seconds": "8",
        }
        return job | {
            "status": status,
            "progress": 100 * polled // (self.polls + 1),
            "error": error,
            "expires_at": 1893456000 if done else None,
        }


def _response(status: int, sent: bytes, headers: dict[str, str] | None = None) -> bytes:
    fixed = {"content-type": "application/json", "content-length": str(len(sent)), "connection": "close"}
    lines = [f"{name}: {value}\r\n" for name, value in (fixed | (headers or {})).items()]
    return f"HTTP/1.1 {status} X\r\n{''.join(lines)}\r\n".encode() + sent


@asynccontextmanager
async def serving(sora: Sora) -> AsyncIterator[str]:
    """Serve it. The address is what OPENAI_BASE_URL takes."""
    server = await asyncio.start_server(sora.serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"


class SoraProcess(Process):
    """The provider as a process of its own. Each response takes up to PAUSE_MAX_S, as the seed decides."""

    ready_path = BOOKS

    def __init__(self, folder: Path, seed: int = 1) -> None:
        super().__init__([sys.executable, "-m", "tests.generations.sora", "{port}", str(seed)], folder, {})

    @property
    def orders(self) -> list[str]:
        """The orders that it has taken."""
        found: list[str] = httpx.get(f"{self.url}{BOOKS}", timeout=30).json()
        return found


async def main(port: int, seed: int) -> None:
    chance = random.Random(seed)
    sora = Sora(pause_s=lambda: chance.uniform(0, PAUSE_MAX_S))
    async with await asyncio.start_server(sora.serve, "127.0.0.1", port) as server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(*map(int, sys.argv[1:])))
