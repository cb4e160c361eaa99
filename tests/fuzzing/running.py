"""A run of the fuzzer: blocks of requests to real servers, restarts, and the findings."""

from __future__ import annotations

import asyncio
import json
import math
import re
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from durable_chat.errors import InvalidRequest
from durable_chat.sessions.sessions import check_session_id
from tests.fuzzing.checking import Checker, Unusable
from tests.fuzzing.probing import Stall
from tests.fuzzing.requests import BLOCK_REQUESTS, SECRET, TOKEN_SECRET, Maker, Request, describe, resolve
from tests.fuzzing.wire import Answer, Lost, Wire
from tests.servers import ROOT, Server, clean_environment

WORKERS = 8
"""Blocks at the same time: more only wait for the server."""

PHASE_BLOCKS = 500
"""Blocks between two restarts: 20,000 requests."""

KEPT_EACH = 5
"""Of so many blocks one keeps its sessions over a restart, after which they are looked at again."""

STALLS_MAX = 12
"""The longest of each life of a server that are told."""

REFUSED_503 = frozenset({"overloaded", "bodies_full"})
"""What a server under load may say."""

FAILED_502 = frozenset({"run_failed", "session_closed", "session_deleted"})
"""What becomes of a turn that is waited for, when its model fails or somebody closes or deletes its session meanwhile."""

FOUND_EACH_MAX = 8
COMMON = {
    "DURABLE_CHAT_MODEL": "demo",
    "DURABLE_CHAT_DEMO_DELAY_MS": "0",
    "DURABLE_CHAT_DEMO_CHUNKS": "4",
    "DURABLE_CHAT_SSE_S": "0.2",
    "DURABLE_CHAT_SSE_PING_S": "0.1",
    "DURABLE_CHAT_LONG_POLL_S": "0.1",
    "DURABLE_CHAT_AWAIT_MAX_S": "30",
}
VARIANTS: tuple[Mapping[str, str], ...] = (
    COMMON,
    # Guarded, and with minimal memory limits, so that every request folds the session's log anew.
    COMMON
    | {
        "DS_SECRET": SECRET,
        "DURABLE_CHAT_TOKEN_SECRET": TOKEN_SECRET,
        "DURABLE_CHAT_SESSIONS_CACHED_MAX": "1",
        "DURABLE_CHAT_SESSIONS_CACHED_BYTES_MAX": "0",
        "DURABLE_CHAT_TURN_SNAPSHOT_MAX_BYTES": "0",
        "DURABLE_CHAT_ARTIFACT_MIN_BYTES": "50",
        "DURABLE_CHAT_TURNS": "interrupt",
    },
)
"""The settings under which servers run; block after block they take turns."""

_SEEN = {
    "CALL": re.compile(rb'"toolCallId":"([\w.~-]{1,100})"'),
    "MESSAGE": re.compile(rb'"(?:messageId|id)":"([\w.~-]{1,100})"'),
    "RUN": re.compile(rb'"runId":"([\w.~-]{1,100})"'),
    "APPROVAL": re.compile(rb'"approval":\{"id":"([\w.~-]{1,100})"'),
    "ARTIFACT": re.compile(rb"artifact=([\w-]{1,100})"),
}
_BAD_LOG = re.compile(r"^(?:Traceback|\S+ \S+ (?:ERROR|CRITICAL)).*\n(?:(?!\d{4}-).*\n)*", re.MULTILINE)
"""A line that tells of an error, with the traceback below it."""


@dataclass(frozen=True, slots=True)
class Options:
    requests: int = 100_000
    seed: int = 1
    minutes: float = math.inf
    folder: Path = Path()


@dataclass
class Findings:
    """The findings of a run: responses by route and status, failures, the time of each request, stalls."""

    statuses: Counter[tuple[str, str]] = field(default_factory=Counter)
    failures: list[tuple[str, str]] = field(default_factory=list)
    under_way: deque[tuple[float, float, Request]] = field(default_factory=lambda: deque(maxlen=20_000))
    stalls: list[tuple[Stall, list[Request]]] = field(default_factory=list)
    probes: int = 0
    checked: int = 0
    excused: Counter[str] = field(default_factory=Counter)

    def fail(self, kind: str, detail: str) -> None:
        self.failures.append((kind, detail))

    def judge(self, request: Request, answer: Answer) -> None:
        code = _code(answer)
        self.statuses[request.route, f"{answer.status}"] += 1
        failed = answer.status >= 500 and answer.status not in (501, 505)
        if (answer.status == 502 and code in FAILED_502) or (answer.status == 503 and code in REFUSED_503):
            failed = False
        if failed:
            self.fail(f"{answer.status} {code}", _told(request))


@dataclass
class Block:
    """
    A block that is being sent. Mutable: the values that the session has shown, and the sessions that were written to.
    """

    number: int
    found: dict[str, list[str]] = field(default_factory=lambda: {name: [] for name in (*_SEEN, "OFFSET")})
    touched: set[str] = field(default_factory=set)

    def note(self, request: Request, answer: Answer) -> None:
        offset = answer.headers.get("stream-next-offset")
        if offset is not None:
            self.found["OFFSET"] = [*self.found["OFFSET"], offset][-FOUND_EACH_MAX:]
        if "json" in answer.headers.get("content-type", ""):
            for name, pattern in _SEEN.items():
                fresh = [value.decode() for value in pattern.findall(answer.body[-100_000:])[-FOUND_EACH_MAX:]]
                self.found[name] = [*self.found[name], *fresh][-FOUND_EACH_MAX:]
        if request.method in ("POST", "PUT") and not 400 <= answer.status < 500:
            self.touched |= {session_id for session_id in session_of(request) if is_session_id(session_id)}


def is_session_id(session_id: str) -> bool:
    try:
        return bool(check_session_id(session_id))
    except InvalidRequest:
        return False


TURNS = frozenset({"/api/chat", "/api/chat/ndjson", "/api/agui", "/api/ai-sdk", "/api/ai-sdk-durable"})
TURNS |= {"/api/assistant-transport", "/api/copilotkit/agent/default/run"}


def session_of(request: Request) -> set[str]:
    """Return the session that a request may have written to, if it can be determined."""
    parts = urlsplit(request.target)
    if parts.path.startswith(("/v1/stream/chat-", "/streams/chat-", "/v1/streams/chat-")):
        return {unquote(unquote(parts.path.split("/chat-", 1)[1]))}
    if parts.path in TURNS:
        named = parse_qs(parts.query).get("id")
        if named:
            return {named[0]}
        try:
            body = json.loads(request.body)
        except (ValueError, RecursionError):
            return set()
        return {str(body[name]) for name in ("id", "threadId") if isinstance(body, dict) and body.get(name)}
    return set()


class Run:
    """One run or replay. Mutable: its servers, the sessions to check after their next start, its findings."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.findings = Findings()
        folder = options.folder
        self.servers = [Server(folder / f"server-{at}", settings) for at, settings in enumerate(VARIANTS)]
        self.kept: list[set[str]] = [set() for _ in VARIANTS]
        self.read: list[int] = [0 for _ in VARIANTS]
        self.until_s = time.monotonic() + options.minutes * 60

    async def run(self) -> None:
        blocks = range(-(-self.options.requests // BLOCK_REQUESTS))
        for first in range(0, len(blocks), PHASE_BLOCKS):
            if time.monotonic() > self.until_s:
                break
            phase = blocks[first : first + PHASE_BLOCKS]
            for variant in range(len(VARIANTS)):
                await self._phase(variant, [block for block in phase if block % len(VARIANTS) == variant])
        for variant in range(len(VARIANTS)):
            await self._phase(variant, [])

    async def replay(self, number: int) -> Iterator[tuple[Request, Answer | str]]:
        """Send the requests of a block up to that one to a new server, and return the findings for its sessions."""
        block, last = divmod(number, BLOCK_REQUESTS)
        variant = block % len(VARIANTS)
        server = self.servers[variant]
        await asyncio.to_thread(server.start)
        wire = Wire(server.port)
        told: list[tuple[Request, Answer | str]] = []
        requests = self._requests(block)[: last + 1]
        await self._send(wire, Block(block), requests, told)
        self._look(variant, server.output)
        for session_id in Maker(self.options.seed, block, guarded=variant == 1).ids:
            await self._check(Checker(wire, variant == 1), session_id, block, delete=False)
        wire.close()
        await asyncio.to_thread(server.terminate)
        return iter(told)

    def _requests(self, block: int) -> list[Request]:
        guarded = block % len(VARIANTS) == 1
        return Maker(self.options.seed, block, guarded=guarded).requests()

    async def _phase(self, variant: int, blocks: list[int]) -> None:
        """From a server's start to its end: check the kept sessions, then send the blocks."""
        server = self.servers[variant]
        await asyncio.to_thread(server.start)
        wire = Wire(server.port)
        checker = Checker(wire, guarded=variant == 1)
        for session_id in sorted(self.kept[variant]):
            await self._check(checker, session_id, None, delete=True)
        self.kept[variant].clear()
        prober = start_prober(server)
        left = iter(blocks)
        async with asyncio.TaskGroup() as group:
            for _ in range(WORKERS):
                group.create_task(self._work(variant, wire, checker, left))
        await asyncio.to_thread(self._end_prober, prober)
        wire.close()
        if not server.alive:
            self.findings.fail("the server died", server.output_shown())
        elif (code := await asyncio.to_thread(server.terminate)) != 0:
            self.findings.fail("the server ended badly", f"exit code {code}")
        self.findings.checked += checker.checked
        self.findings.excused.update(checker.excused)
        self._look(variant, server.output)

    def _look(self, variant: int, output: str) -> None:
        """Return the server's new log lines since the last call."""
        fresh = output[self.read[variant] :]
        self.read[variant] = len(output)
        for found in _BAD_LOG.finditer(fresh):
            lines = found[0].rstrip().splitlines()
            self.findings.fail(f"in the server's log: {lines[-1][:150]}", "\n".join([lines[0][:200], *lines[-13:]]))

    async def _work(self, variant: int, wire: Wire, checker: Checker, left: Iterator[int]) -> None:
        for number in left:
            if time.monotonic() > self.until_s:
                return
            block = Block(number)
            await self._send(wire, block, self._requests(number), [])
            keep = number // len(VARIANTS) % KEPT_EACH == 0
            for session_id in sorted(block.touched):
                await self._check(checker, session_id, number, delete=not keep)
                if keep:
                    self.kept[variant].add(session_id)

    async def _check(self, checker: Checker, session_id: str, block: int | None, *, delete: bool) -> None:
        try:
            await checker.check(session_id, delete=delete)
        except Unusable as error:
            where = "after a restart" if block is None else f"after request {(block + 1) * BLOCK_REQUESTS - 1}"
            self.findings.fail("a session cannot be used", f"{session_id[:60]!r} {where}: {error}")

    async def _send(
        self, wire: Wire, block: Block, requests: list[Request], told: list[tuple[Request, Answer | str]]
    ) -> None:
        """Send the requests in order, and those with `together` at the same time."""
        at = 0
        while at < len(requests):
            stop = at + 1
            while stop < len(requests) and requests[stop].together:
                stop += 1
            together = [self._ask(wire, block, request) for request in requests[at:stop]]
            told += zip(requests[at:stop], await asyncio.gather(*together), strict=True)
            at = stop

    async def _ask(self, wire: Wire, block: Block, request: Request) -> Answer | str:
        request = resolved(request, block.found)
        started_s = time.monotonic()
        try:
            answer = await wire.ask(request)
        except Lost as error:
            self.findings.statuses[request.route, "none"] += 1
            self.findings.fail(str(error), _told(request))
            return str(error)
        finally:
            self.findings.under_way.append((started_s, time.monotonic(), request))
        self.findings.judge(request, answer)
        block.note(request, answer)
        return answer

    def _end_prober(self, prober: subprocess.Popen[str]) -> None:
        output, _ = prober.communicate("\n", timeout=60)
        told = json.loads(output)
        self.findings.probes += told["probes"]
        for stall in sorted((Stall(**one) for one in told["stalls"]), key=lambda stall: -stall.own_s)[:STALLS_MAX]:
            end_s = stall.at_s + stall.wait_s
            during = [
                request
                for started_s, ended_s, request in self.findings.under_way
                if started_s < end_s and ended_s > stall.at_s
            ]
            self.findings.stalls.append((stall, sorted(during, key=lambda request: -len(request.body))[:3]))


def resolved(request: Request, found: Mapping[str, list[str]]) -> Request:
    """Replace the placeholders by the values that the session has shown."""
    target = resolve(request.target, found, request.number)
    headers = tuple((name, resolve(value, found, request.number)) for name, value in request.headers)
    body = request.body
    if b"@" in body and len(body) < 100_000:
        body = resolve(body.decode("latin-1"), found, request.number).encode("latin-1")
    return replace(request, target=target, headers=headers, body=body)


def start_prober(server: Server) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.fuzzing.probing", str(server.port), str(server.pid)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, env=clean_environment({}), stdin=pipe, stdout=pipe, text=True)


def _code(answer: Answer) -> str:
    """Return the code of an error."""
    try:
        return "" if answer.status < 400 else str(json.loads(answer.body)["code"])
    except (ValueError, KeyError, TypeError):
        return "no code"


def _told(request: Request) -> str:
    return f"request {request.number}: {json.dumps(describe(request))}"
