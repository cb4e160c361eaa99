"""The chat load counts right: against a tiny chat that keeps its promises, against ones that break them, and on ours."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec
import pytest

from benchmarks import chat
from benchmarks.bars import held, verdicts
from benchmarks.heard import Delivery, Heard, clocks_agree, heard, lateness_ns, text_chunks
from benchmarks.kinds import KINDS, Cell
from benchmarks.measures import LoadError, Measure
from benchmarks.rounds import Results
from benchmarks.servers import CHAT, Contender, running
from benchmarks.stamped import DELTA_CHARS, Order, stamp
from benchmarks.tables import table
from benchmarks.wire import Connection, opened, request
from tests.servers import node_env
from tests.tiny import Tiny, served, write_chunked

SECONDS = 0.1
PER_S = 100


def event(*chunks: dict[str, Any]) -> bytes:
    return b"event: data\ndata:" + msgspec.json.encode(chunks) + b'\n\nevent: control\ndata:{"upToDate":true}\n\n'


def content(text: str, message_id: str = "m1") -> dict[str, Any]:
    return {"type": "TEXT_MESSAGE_CONTENT", "messageId": message_id, "delta": text}


@dataclass
class TinyChat(Tiny):
    """
    As much of a chat as the load uses, in memory. Its faults are what a broken one could do.

    Mutable: everything; a test sets faults before it runs a load.
    """

    skip: int = -1  # this delta is not delivered to one of the readers
    joined: int = 1  # so many deltas become one chunk
    repeat: int = -1  # this delta is delivered twice
    cut: int = -1  # readers are cut off at this delta
    endless: bool = False  # the run's end never comes
    status: int = 202
    logs: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    readers: dict[str, list[asyncio.StreamWriter]] = field(default_factory=dict)
    runs: set[asyncio.Task[None]] = field(default_factory=set)

    def answer(self, method: str, address: str, body: bytes, writer: asyncio.StreamWriter) -> bool:
        url = urlsplit(address)
        query = parse_qs(url.query)
        name = query["id"][0]
        if method == "POST":
            writer.write(b"HTTP/1.1 %d X\r\nContent-Length: 0\r\n\r\n" % self.status)
            message = msgspec.json.decode(body)["messages"][0]
            self._start(name, message["id"], message["parts"][0]["content"])
        elif url.path == "/api/chat-snapshot":
            self.logs[name] = []
            _write_whole(writer, b'{"messages":[],"offset":"00"}')
        elif "live" in query:
            self.readers.setdefault(name, []).append(writer)
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            write_chunked(writer, b'event: control\ndata:{"upToDate":true}\n\n')
        else:
            assert query["offset"] == ["00"]
            _write_whole(writer, msgspec.json.encode(self.logs[name]), "Stream-Up-To-Date: true\r\n")
        return True

    def _start(self, name: str, asked_id: str, text: str) -> None:
        task = asyncio.create_task(self._run(name, asked_id, text))
        self.runs.add(task)
        task.add_done_callback(self.runs.discard)

    async def _run(self, name: str, asked_id: str, text: str) -> None:
        order = Order.read(text)
        self._give(name, content(text, asked_id), {"type": "RUN_STARTED"})
        for number in range(0, order.count, self.joined):
            await asyncio.sleep(self.joined / order.per_s)
            numbers = range(number, min(number + self.joined, order.count))
            chunk = content("".join(stamp(one, time.monotonic_ns()) for one in numbers))
            for _ in range(2 if self.repeat == number else 1):
                self._give(name, chunk, left_out=self.skip == number)
            if self.cut == number:
                for reader in self.readers[name]:
                    reader.close()
        if not self.endless:
            self._give(name, {"type": "RUN_FINISHED"})

    def _give(self, name: str, *chunks: dict[str, Any], left_out: bool = False) -> None:
        self.logs[name] += chunks
        for reader in self.readers[name][1 if left_out else 0 :]:
            write_chunked(reader, event(*chunks))


def _write_whole(writer: asyncio.StreamWriter, body: bytes, headers: str = "") -> None:
    writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n{headers}\r\n".encode() + body)


async def measured(tiny: TinyChat, sessions: int = 2, drain_max_s: float = 30.0) -> Measure:
    async with served(tiny) as target:
        return await chat.run(target, sessions, 0.0, SECONDS, PER_S, drain_max_s)


async def test_answers_are_followed_to_their_end() -> None:
    """Every reader of every session gets the whole answer, however the bytes are cut, and the log is read back."""
    tiny = TinyChat()
    measure = await measured(tiny, sessions=3)
    given = sum(text_chunks([msgspec.json.encode(log)], chat.ASKED_ID) for log in tiny.logs.values())
    assert measure.faults == ()
    assert {len(readers) for readers in tiny.readers.values()} == {chat.READERS}
    assert measure.count <= given * chat.READERS
    assert measure.rate == pytest.approx(measure.count / measure.seconds)
    assert "the log has 100% of it as chunks" in measure.notes[0]


@pytest.mark.parametrize("broken", [TinyChat(skip=3), TinyChat(repeat=3)])
async def test_a_reader_without_the_whole_answer_is_told(broken: TinyChat) -> None:
    """A delta that one reader does not get, or gets twice, is a broken promise, even when all later ones come."""
    measure = await measured(broken)
    assert any("readers got" in fault for fault in measure.faults)


async def test_joined_deltas_are_deliveries_and_too_few_chunks() -> None:
    """Every delta that was joined into a chunk is a delivery; a log with fewer chunks is said to be another load."""
    measure = await measured(TinyChat(joined=4))
    assert [fault for fault in measure.faults if "the log holds" in fault] == list(measure.faults) != []


async def test_readers_cut_off_end_the_load() -> None:
    """They are reported, not waited for."""
    with pytest.raises(LoadError, match="of 4 SSE readers were cut off"):
        await measured(TinyChat(cut=3))


async def test_a_stalled_answer_ends_the_load() -> None:
    """A reader that does not get the end of its answer is waited for so long, and no longer."""
    with pytest.raises(LoadError, match="stalled: 4 of 4"):
        await measured(TinyChat(endless=True), drain_max_s=0.0)


async def test_a_refused_turn_ends_the_load() -> None:
    """Nothing is measured of a chat that takes only some of the turns."""
    with pytest.raises(LoadError, match="answered 503"):
        await measured(TinyChat(status=503))


def test_reads_are_taken_apart() -> None:
    """A delta came when its event was complete; other text of the answer is told, and the user's own is left out."""
    first, second = stamp(0, 5), stamp(1, 6)
    body = event({"type": "RUN_STARTED"}, content("2 deltas", "asked")) + event(content(first + second + "?"))
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body)
    cuts = [head + body[:150], body[150:-90], body[-90:]]
    got = heard(zip([10, 20, 30], cuts, strict=True), "asked")
    assert len(first) == DELTA_CHARS
    assert got.foreign_chars == 1
    assert (got.chunks, got.ended) == (1, False)
    assert [(one.number, one.left_ns) for one in got.deliveries] == [(0, 5), (1, 6)]
    assert {one.came_ns for one in got.deliveries} == {30}


def whole(*numbers: int) -> Heard:
    return Heard(tuple(Delivery(number, number * 10, number * 10 + 3) for number in numbers), len(numbers), True)


def test_an_answer_is_whole_or_not() -> None:
    """All deltas, once, in order."""
    assert whole(0, 1, 2).is_whole(3)
    assert not any(whole(*numbers).is_whole(3) for numbers in [(0, 1), (0, 2, 1), (0, 1, 1, 2), (1, 2), ()])
    assert not Heard(whole(0, 1, 2).deliveries, 3, True, foreign_chars=1).is_whole(3)


def test_clocks_are_compared() -> None:
    """A delta that comes before it has left says that the model's clock is another one."""
    assert clocks_agree(whole(0, 1, 2).deliveries)
    assert not clocks_agree([Delivery(0, 10, 9)])
    assert not clocks_agree([Delivery(0, 10, 11), Delivery(1, 5, 12)])


def test_lateness_counts_from_when_a_delta_was_due() -> None:
    """A model that is heard late makes every delta late, though each is delivered at once."""
    late_ns = 7_000_000
    times = [0, 10_000_000 + late_ns, 20_000_000 + late_ns]
    deliveries = [Delivery(number, left, left + 1) for number, left in enumerate(times)]
    assert [late for _, late in lateness_ns(deliveries, 100)] == [1, late_ns + 1, late_ns + 1]
    assert [*lateness_ns([], 100)] == []


def test_what_is_counted() -> None:
    """
    Deliveries count that came within the span, and times of deltas that left within it, for each reader; what the
    models gave is counted once for each session.
    """
    course = chat.Course(sessions=1, per_s=100, warm_s=0.01, seconds=0.02)
    assert course.order.count == 5
    span = chat.Span(9_000_000, 29_000_000, of(0.0, 0.0))
    times = [(0, 0, 1), (1, 10, 12), (2, 20, 25), (3, 30, 31), (4, 40, 41)]
    quick = Heard(tuple(Delivery(number, left * 10**6, came * 10**6) for number, left, came in times), 5, True)
    slow = Heard(tuple(Delivery(number, left * 10**6, 50 * 10**6) for number, left, _ in times), 5, True)
    measure = chat.judged(course, span, [quick, slow], [5])
    assert measure.count == 2
    assert (measure.p50_ms, measure.p99_ms) == (30.0, 40.0)
    assert measure.faults == ()
    assert chat.faults(course, [quick, whole(0, 1)], [5]) != ()
    assert chat.faults(course, [quick, slow], [4]) != ()


def test_the_span_measured_is_within_every_answer() -> None:
    """The last session has begun before it, and the first one's answer lasts longer."""
    course = chat.Course(sessions=250, per_s=50, warm_s=1.0, seconds=5.0)
    assert course.turn_s(249) + course.warm_s <= course.begins_s
    assert (course.order.count - 1) / course.per_s >= course.ends_s
    assert Order.read(course.order.text) == course.order


def of(p50_ms: float, p99_ms: float, *, faults: tuple[str, ...] = (), others_cpu_s: float = 0.0) -> Measure:
    return Measure(100.0, p50_ms, p99_ms, 1, 1.0, 0.5, 0.1, others_cpu_s, faults=faults)


def test_the_most_sessions_held() -> None:
    """The largest size whose every run came to its end without a fault, with the median of p99 in time."""
    results: Results = {
        Cell("chat", 1, "ours"): [of(1.0, 2.0)],
        Cell("chat", 50, "ours"): [of(1.0, 24.0), of(1.0, 60.0), of(1.0, 20.0)],
        Cell("chat", 100, "ours"): [of(1.0, 26.0)],
        Cell("chat", 150, "ours"): [of(1.0, 2.0, faults=("lost",))],
        Cell("chat", 200, "ours"): [of(1.0, 2.0), LoadError("stalled")],
        Cell("chat", 1, "upstream"): [of(5.0, 35.0)],
        Cell("sse", 1000, "ours"): [of(1.0, 2.0)],
    }
    assert held(results, "ours") == 50
    assert held(results, "upstream") == 0
    said = verdicts(results)
    assert any("p50 ms 1," in line and line.endswith("reached") for line in said)
    assert any("ours: 50 sessions" in line for line in said)


def test_the_table_of_chats() -> None:
    """No ratio of rates that are the same by design; no row for what is not run; a peer that fails is a row."""
    results: Results = {
        Cell("chat", 1, "ours"): [of(1.0, 2.0, others_cpu_s=0.9)],
        Cell("chat", 50, "upstream"): [LoadError("stalled: 3 of 100")],
    }
    text = table(KINDS["chat"], results)
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert " x " not in rows[0]
    assert len({row.count("|") for row in rows}) == 1
    assert sum("upstream" in row for row in rows) == 2
    assert "failed" in text
    assert "FAILED: stalled" in text
    assert "in 1 of 1 runs others kept up to 0.9 CPUs busy" in text


async def test_a_server_before_another(tmp_path: Path) -> None:
    """The one behind is started first and named to the other; both are gone afterwards, and their folders with them."""
    behind = Contender("behind", "none", lambda: "0", http_server("{port}"), {}, "/")
    before = Contender("before", "none", lambda: "0", http_server("{port}", "port-{behind}"), {}, "/", behind)
    async with running(before, tmp_path) as target:
        folders = sorted(path.name.partition("-")[0] for path in tmp_path.iterdir())
        async with opened(target.port, Connection) as (connection,):
            listed = (await connection.ask(request("GET", "/"))).body.decode()
    assert folders == ["before", "behind"]
    assert "port-" in listed
    assert f"port-{target.port}" not in listed
    assert list(tmp_path.iterdir()) == []


def http_server(port: str, *files: str) -> tuple[str, ...]:
    """A server that lists its folder, in which it has made some files."""
    make = "".join(f"open('{name}', 'w').close();" for name in files)
    serve = f"import http.server as h; h.test(h.SimpleHTTPRequestHandler, port={port}, bind='127.0.0.1')"
    return (sys.executable, "-c", make + serve)


@pytest.mark.parametrize("contender", CHAT, ids=lambda contender: contender.name)
async def test_the_load_on_real_servers(contender: Contender, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each server that is compared takes the load, and gives every reader the whole answer."""
    if contender.command[0] == "node":
        monkeypatch.setenv("PATH", f"{Path(node_env()).parent}{os.pathsep}{os.environ['PATH']}")
    async with running(contender, tmp_path) as target:
        measure = await chat.run(target, 2, 0.0, SECONDS)
    # A machine that is busy with something else may make a server join deltas.
    assert [fault for fault in measure.faults if "the log holds" not in fault] == []


ANSWERED_S = 2.0
"""Long enough for the first chunks to arrive on a busy machine. Only those that arrive meanwhile are counted."""


@pytest.mark.parametrize("kind", ["chat-durable", "chat-request"])
async def test_one_reader_of_each_answer(kind: str, tmp_path: Path) -> None:
    """Whether it follows the session or asks itself, every reader gets the whole answer."""
    async with running(CHAT[0], tmp_path) as target:
        measure = await KINDS[kind].run(target, 2, 0.0, ANSWERED_S)
    assert [fault for fault in measure.faults if "the log holds" not in fault] == []
    assert measure.count
