"""
Many sessions answering at once, and a server that is killed and started again under them: `scripts/soak`.

Each session is followed by a tab that comes back by offset, and is hydrated in the middle of answers. After each kill,
once the server says that it is ready, and at the end: every run has one terminal, no text is doubled or has a hole,
nothing that a tab was shown is gone, no acknowledged message is missing, and all readers have one transcript.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from durable_chat.models.base import Turn
from durable_chat.models.demo import DemoModel
from durable_chat.transcripts.chunks import messages_snapshot
from durable_chat.transcripts.transcript import Transcript
from tests.lines import alines_of
from tests.servers import Server
from tests.transcripts.logs import Chunks, check_runs, fold

REQUESTS_AT_ONCE = 32
"""Of the load itself: more only wait in the client."""
RETRY_S = 0.05
WAIT_MAX_S = 120.0
"""Whatever takes longer has failed."""
READY_AFTER_PORT_MAX_S = 2.0
"""What is promised for 50 answers; here it is printed, and judged for up to so many sessions."""
JUDGED_SESSIONS_MAX = 50
TEXTS = ("hello", "please think about it", "use a tool")


@dataclass(frozen=True, slots=True)
class Load:
    sessions: int = 200
    kills: int = 10
    deltas: int = 30
    delay_ms: int = 100
    life_s: tuple[float, float] = (0.2, 3.0)
    seed: int = 1


QUICK = Load(sessions=20, kills=3, deltas=20, delay_ms=20, life_s=(0.1, 0.6))


@dataclass
class Session:
    """
    One session, as the world sees it. Mutable: the messages acknowledged; what its tab was shown, up to `offset`, and
    `torn`, what came after it; the log as read after the last start; snapshots taken on the way.
    """

    id: str
    acked: dict[str, str] = field(default_factory=dict)
    seen: Chunks = field(default_factory=list)
    torn: Chunks = field(default_factory=list)
    offset: str = "-1"
    log: Chunks = field(default_factory=list)
    log_offset: str = "-1"
    hydrated: list[dict[str, Any]] = field(default_factory=list)
    moved: asyncio.Event = field(default_factory=asyncio.Event)

    async def follow(self, client: httpx.AsyncClient) -> None:
        """A tab: reads live for ever, and comes back by offset."""
        while True:
            try:
                await self._read_live(client)
            except httpx.TransportError:
                pass
            await asyncio.sleep(RETRY_S)

    async def _read_live(self, client: httpx.AsyncClient) -> None:
        self.torn = []
        query = {"id": self.id, "offset": self.offset, "live": "sse"}
        async with client.stream("GET", "/api/chat-stream", params=query) as answer:
            if answer.status_code != 200:
                return
            async for line in alines_of(answer):
                if line.startswith("data:["):
                    self.torn = json.loads(line[5:])
                elif line.startswith("data:{"):
                    self.seen += self.torn
                    self.torn, self.offset = [], json.loads(line[5:])["streamNextOffset"]
                    self.moved.set()

    async def say(self, client: httpx.AsyncClient, text: str) -> None:
        """A turn, sent again under its key until it is acknowledged."""
        message_id = f"{self.id}-{len(self.acked)}"
        body = {"messages": [{"id": message_id, "role": "user", "parts": [{"type": "text", "content": text}]}]}
        while True:
            try:
                answer = await client.post(
                    "/api/chat", params={"id": self.id}, json=body, headers={"Idempotency-Key": message_id}
                )
            except httpx.TransportError:
                answer = None
            if answer is not None and answer.status_code == 202:
                self.acked[message_id] = text
                return
            assert answer is None or answer.status_code == 503, answer.text
            await asyncio.sleep(RETRY_S)

    async def hydrate(self, client: httpx.AsyncClient) -> None:
        """A tab that reloads now; what it makes of the rest is looked at when there is all of it."""
        answer = await client.get("/api/chat-snapshot", params={"id": self.id})
        if answer.status_code == 200:
            self.hydrated.append(answer.json())

    async def read_log(self, client: httpx.AsyncClient) -> None:
        """The log, on from where it was read last."""
        while True:
            answer = await client.get(f"/v1/stream/chat-{self.id}", params={"offset": self.log_offset})
            if answer.status_code == 404:
                return
            assert answer.status_code == 200, answer.text
            self.log += answer.json()
            self.log_offset = answer.headers["stream-next-offset"]
            if "stream-up-to-date" in answer.headers:
                return

    async def has_caught_up(self) -> None:
        """Until the tab was shown all of the log that was read."""
        async with asyncio.timeout(WAIT_MAX_S):
            while len(self.seen) < len(self.log):
                self.moved.clear()
                await self.moved.wait()

    async def has_ended(self) -> None:
        """Until the tab was shown an end of every message's answer."""
        async with asyncio.timeout(WAIT_MAX_S):
            while sum(chunk["type"] in ("RUN_FINISHED", "RUN_ERROR") for chunk in self.seen) < len(self.acked):
                self.moved.clear()
                await self.moved.wait()


class Soak:
    """Mutable: the server's lives, and what was measured of them."""

    def __init__(self, load: Load, folder: Path) -> None:
        self.load = load
        self.chance = random.Random(load.seed)
        settings = {
            "DURABLE_CHAT_MODEL": "demo",
            "DURABLE_CHAT_DEMO_CHUNKS": str(load.deltas),
            "DURABLE_CHAT_DEMO_DELAY_MS": str(load.delay_ms),
        }
        self.server = Server(folder, settings)
        self.sessions = [Session(f"s{number}") for number in range(load.sessions)]
        self.answers: dict[str, str] = {}
        self.ends: dict[str, int] = {}

    async def run(self) -> None:
        self.answers = {text: await answer_to(text, self.load.deltas) for text in TEXTS}
        await asyncio.to_thread(self.server.start)
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=REQUESTS_AT_ONCE)
        async with httpx.AsyncClient(base_url=self.server.url, timeout=WAIT_MAX_S, limits=limits) as client:
            tabs = [asyncio.create_task(session.follow(client)) for session in self.sessions]
            try:
                for number in range(self.load.kills):
                    await self._live_and_die(client, number)
                await self._each(lambda session: session.say(client, self._text(session)))
                for session in self.sessions:
                    await session.has_ended()
                await self._each(lambda session: session.read_log(client))
                for session in self.sessions:
                    await self._check_last(client, session)
            finally:
                for tab in tabs:
                    tab.cancel()
                await asyncio.wait(tabs)

    def _text(self, session: Session) -> str:
        return TEXTS[(int(session.id[1:]) + len(session.acked)) % len(TEXTS)]

    async def _each(self, act: Callable[[Session], Awaitable[None]]) -> None:
        places = asyncio.Semaphore(REQUESTS_AT_ONCE)

        async def one(session: Session) -> None:
            async with places:
                await act(session)

        async with asyncio.timeout(WAIT_MAX_S):
            await asyncio.gather(*map(one, self.sessions))

    async def _live_and_die(self, client: httpx.AsyncClient, number: int) -> None:
        turns = asyncio.create_task(self._each(lambda session: session.say(client, self._text(session))))
        await asyncio.sleep(self.chance.uniform(*self.load.life_s))
        some = self.chance.sample(self.sessions, min(len(self.sessions), REQUESTS_AT_ONCE // 2))
        await asyncio.gather(*(session.hydrate(client) for session in some))
        await asyncio.sleep(self.chance.uniform(0, self.load.life_s[0]))
        self.server.kill()
        killed_ms = time.time_ns() // 1_000_000
        ready_s = await asyncio.to_thread(self._start_again)
        # Turns that were not acknowledged may be taken by now: a log is checked up to what was there when it was read.
        await self._each(lambda session: session.read_log(client))
        dead = self._check_dead(killed_ms)
        print(
            f"kill {number + 1}: {dead} runs had to be ended, ready {ready_s:.2f} s after the port opened", flush=True
        )
        assert len(self.sessions) > JUDGED_SESSIONS_MAX or ready_s < READY_AFTER_PORT_MAX_S
        await turns

    def _start_again(self) -> float:
        """How long after it first answered the server was ready."""
        self.server.start(wait=False)
        deadline_s = time.monotonic() + WAIT_MAX_S
        while time.monotonic() < deadline_s:
            try:
                httpx.get(f"{self.server.url}/healthz")
                break
            except httpx.TransportError:
                time.sleep(RETRY_S / 10)
        opened_s = time.monotonic()
        self.server.wait_ready()
        return time.monotonic() - opened_s

    def _check_dead(self, killed_ms: int) -> int:
        """Of what ran when the server was killed nothing is open; how many runs were ended for that."""
        dead = 0
        for session in self.sessions:
            check_shown(session)
            ended = [chunk["runId"] for chunk in session.log if chunk.get("code") == "interrupted"]
            dead += len(ended) - self.ends.get(session.id, 0)
            self.ends[session.id] = len(ended)
            open_runs = open_since_before(session.log, killed_ms)
            assert not open_runs, f"{session.id}: a dead run is open at readiness"
        return dead

    async def _check_last(self, client: httpx.AsyncClient, session: Session) -> None:
        await session.has_caught_up()
        check_shown(session)
        assert session.seen == session.log, f"{session.id}: the tab has another log"
        check_runs(session.log)
        check_texts(session, self.answers)
        wanted = plain(fold(session.log))
        assert [message["id"] for message in wanted if message["role"] == "user"] == list(session.acked)
        snapshot = (await client.get("/api/chat-snapshot", params={"id": session.id})).json()
        assert plain(snapshot["messages"]) == wanted, f"{session.id}: the server renders another transcript"
        for taken in session.hydrated:
            answer = await client.get(f"/v1/stream/chat-{session.id}", params={"offset": taken["offset"]})
            transcript = Transcript()
            transcript.fold(messages_snapshot(taken["messages"], timestamp=0))
            transcript.fold_all(answer.json())
            assert "stream-up-to-date" in answer.headers
            assert plain(transcript.messages()) == wanted, f"{session.id}: a reloaded tab has another transcript"


async def answer_to(text: str, deltas: int) -> str:
    """All that the demo model says to it."""
    message = {"id": "u", "role": "user", "parts": [{"type": "text", "content": text}]}
    chunks = DemoModel(deltas, 0)(Turn((message,), "s", "run"))
    return "".join([chunk["delta"] async for chunk in chunks if chunk["type"] == "TEXT_MESSAGE_CONTENT"])


def check_shown(session: Session) -> None:
    shown = [*session.seen, *session.torn][: len(session.log)]
    assert shown == session.log[: len(shown)], f"{session.id}: what a tab was shown is not in the log"


def open_since_before(log: Chunks, time_ms: int) -> list[str]:
    """Runs without an end that were started before a time."""
    open_runs: dict[str, None] = {}
    for chunk in log:
        if chunk["type"] == "RUN_STARTED" and chunk["timestamp"] < time_ms:
            open_runs[chunk["runId"]] = None
        elif chunk["type"] in ("RUN_FINISHED", "RUN_ERROR"):
            open_runs.pop(chunk["runId"], None)
    return list(open_runs)


def check_texts(session: Session, answers: Mapping[str, str]) -> None:
    """Each answer is the model's whole text, or, where it was interrupted, the beginning of it."""
    texts = iter(session.acked.values())
    said, wanted = "", ""
    for chunk in session.log:
        if chunk["type"] == "RUN_STARTED":
            said, wanted = "", answers[next(texts)]
        elif chunk["type"] == "TEXT_MESSAGE_CONTENT":
            said += chunk["delta"]
        elif chunk["type"] == "RUN_FINISHED":
            assert said == wanted, f"{session.id}: {said!r} is not {wanted!r}"
        elif chunk["type"] == "RUN_ERROR":
            assert chunk["code"] == "interrupted", chunk
            assert wanted.startswith(said), f"{session.id}: {said!r} does not begin {wanted!r}"


def plain(messages: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What a person sees of messages."""
    return [
        {key: message[key] for key in ("id", "role", "parts")} for message in json.loads(json.dumps(list(messages)))
    ]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="scripts/soak", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few sessions and kills: seconds")
    parser.add_argument("--seed", type=int, default=1, help="when the server is killed")
    options = parser.parse_args(argv)
    size = QUICK if options.quick else Load()
    load = Load(size.sessions, size.kills, size.deltas, size.delay_ms, size.life_s, options.seed)
    with tempfile.TemporaryDirectory() as folder:
        soak = Soak(load, Path(folder))
        try:
            asyncio.run(soak.run())
        except AssertionError as error:
            print(f"{error}\n{soak.server.output_shown()}", file=sys.stderr)
            return 1
        finally:
            soak.server.kill()
    runs = sum(len(session.acked) for session in soak.sessions)
    print(f"{load.sessions} sessions, {load.kills} kills, {runs} answers: every run ended once, every reader agrees")
    return 0


if __name__ == "__main__":
    sys.exit(main())
