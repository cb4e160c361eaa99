"""The load generator counts right: against a tiny server that keeps its promises, and against one that breaks them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import msgspec
import pytest

from benchmarks import appends, catchup, fanout
from benchmarks.__main__ import arguments, plan
from benchmarks.bars import broken, ratio, verdicts
from benchmarks.kinds import KINDS, Cell
from benchmarks.machines import describe, file_system
from benchmarks.measures import LoadError, Measure, percentile
from benchmarks.rounds import Results
from benchmarks.servers import Contender, running
from benchmarks.tables import table
from tests.tiny import Tiny, served, write_chunked

SECONDS = 0.1


@dataclass
class TinyServer(Tiny):
    """
    As much of the protocol as the loads use, in memory. Its faults are what a broken server could do.

    Mutable: everything; a test sets faults before it runs a load.
    """

    page: int = 1_000_000
    forget: int = 0  # of so many appends one is acknowledged and not kept
    repeat: bool = False  # each append is kept twice
    status: int = 204
    cut_append: int = -1  # this append is not answered: the connection is closed
    skip: int = -1  # this message is not delivered to SSE readers
    cut_sse: bool = False  # SSE reads end after their first message
    appended: int = 0
    streams: dict[str, list[bytes]] = field(default_factory=dict)
    readers: dict[str, list[asyncio.StreamWriter]] = field(default_factory=dict)

    def answer(self, method: str, address: str, body: bytes, writer: asyncio.StreamWriter) -> bool:
        url = urlsplit(address)
        if method == "PUT":
            self.streams[url.path] = []
            writer.write(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n")
        elif method == "POST":
            return self._append(url.path, body, writer)
        elif "live=sse" in url.query:
            self.readers.setdefault(url.path, []).append(writer)
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            write_chunked(writer, b'event: control\ndata:{"upToDate":true}\n\n')
        else:
            self._read(url.path, parse_qs(url.query)["offset"][0], writer)
        return True

    def _append(self, path: str, body: bytes, writer: asyncio.StreamWriter) -> bool:
        self.appended += 1
        if self.appended == self.cut_append:
            return False
        writer.write(b"HTTP/1.1 %d X\r\nContent-Length: 0\r\n\r\n" % self.status)
        kept = [bytes(raw) for raw in msgspec.json.decode(body, type=list[msgspec.Raw])] if body[:1] == b"[" else [body]
        if self.status == 204 and not (self.forget and self.appended % self.forget == 0):
            self.streams[path] += kept * 2 if self.repeat else kept
        if self.appended != self.skip:
            for reader in self.readers.get(path, []):
                write_chunked(reader, b"event: data\ndata:[%b]\n\n" % b",".join(kept))
                if self.cut_sse:
                    reader.close()
        return True

    def _read(self, path: str, offset: str, writer: asyncio.StreamWriter) -> None:
        start = max(0, int(offset))
        messages = self.streams[path][start : start + self.page]
        end = start + len(messages)
        lines = f"Content-Length: {len(b','.join(messages)) + 2}\r\nStream-Next-Offset: {end}\r\n"
        if end == len(self.streams[path]):
            lines += "Stream-Up-To-Date: true\r\n"
        writer.write(f"HTTP/1.1 200 OK\r\n{lines}\r\n".encode() + b"[%b]" % b",".join(messages))


async def test_every_acknowledged_append_is_counted_and_read_back() -> None:
    """What the load counts as acknowledged after its warm-up is what the server keeps, over several pages."""
    tiny = TinyServer(page=5)
    async with served(tiny) as target:
        measure = await appends.run(target, 8, 0.0, SECONDS)
    assert measure.faults == measure.notes == ()
    assert measure.count > 0
    assert {len(raw) for messages in tiny.streams.values() for raw in messages} == {appends.MESSAGE_BYTES}
    assert len(tiny.streams) == appends.STREAM_COUNT
    assert measure.count <= tiny.appended == sum(map(len, tiny.streams.values()))


async def test_a_lost_or_doubled_append_is_told() -> None:
    """A server that acknowledges what it does not keep, or keeps it twice, is found out."""
    async with served(TinyServer(forget=10)) as target:
        lost = await appends.run(target, 4, 0.0, SECONDS)
    async with served(TinyServer(repeat=True)) as target:
        doubled = await appends.run(target, 4, 0.0, SECONDS)
    assert len(lost.faults) == len(doubled.faults) == 1
    assert lost.faults != doubled.faults


def test_messages_out_of_order_are_told() -> None:
    """The messages of one connection in one stream keep their order."""
    expected = [(0, "000-00000000"), (0, "000-00000064"), (0, "001-00000063")]
    assert appends.faults(expected, [["001-00000063", "000-00000000", "000-00000064"]]) == ()
    assert appends.faults(expected, [["000-00000064", "000-00000000", "001-00000063"]]) != ()


async def test_a_refused_append_is_not_counted() -> None:
    """Refusals are a note; they are neither appends nor lost ones."""
    async with served(TinyServer(status=503)) as target:
        measure = await appends.run(target, 2, 0.0, SECONDS)
    assert measure.count == 0
    assert measure.faults == ()
    assert len(measure.notes) == 1


async def test_a_cut_connection_ends_the_append_load() -> None:
    """A server that closes a connection instead of answering is reported, not waited for."""
    async with served(TinyServer(cut_append=20)) as target:
        with pytest.raises(LoadError):
            await appends.run(target, 2, 0.0, 60.0)


async def test_every_delivery_is_counted_at_every_reader() -> None:
    """Deliveries are events times readers, however the bytes are cut; those of the warm-up do not count."""
    tiny = TinyServer()
    async with served(tiny) as target:
        measure = await fanout.run(target, 7, SECONDS, SECONDS)
    assert measure.faults == ()
    assert measure.notes == (f"{measure.count // 7} events",)
    assert measure.count % 7 == 0
    assert 0 < measure.count < tiny.appended * 7


async def test_a_message_not_delivered_is_told() -> None:
    """A reader that missed a message is wrong, even when all later ones came."""
    async with served(TinyServer(skip=3)) as target:
        measure = await fanout.run(target, 2, 0.0, SECONDS, drain_max_s=0.05)
    assert measure.faults
    assert len(measure.notes) == 2


async def test_readers_cut_off_are_told_and_not_waited_for() -> None:
    """The load ends although its readers are gone, and says how many."""
    async with served(TinyServer(cut_sse=True)) as target:
        measure = await fanout.run(target, 3, 0.0, SECONDS)
    assert any("3 readers" in note for note in measure.notes)


async def test_catch_up_follows_the_pages_and_counts_the_bytes() -> None:
    """All pages of every pass count, and every message is there."""
    tiny = TinyServer(page=700)
    async with served(tiny) as target:
        measure = await catchup.run(target, 1500, 0.0, 0.0)
    size = 1500 * len(catchup.MESSAGE % 0) + 1499 - 2 + 3 * 2
    assert measure.faults == ()
    assert measure.count == 1
    assert measure.rate * measure.seconds == pytest.approx(size / 1e6)


async def test_catch_up_misses_a_forgotten_batch() -> None:
    """A stream shorter than what was written is a fault."""
    async with served(TinyServer(forget=2)) as target:
        measure = await catchup.run(target, 2000, 0.0, 0.0)
    assert measure.faults


async def test_a_server_that_ends_at_once_is_reported(tmp_path: Path) -> None:
    """What it wrote is shown, and its folder is removed."""
    broken_server = Contender("broken", "none", lambda: "0", ("sh", "-c", "echo no such luck"), {}, "/")
    with pytest.raises(LoadError, match="no such luck"):
        async with running(broken_server, tmp_path):
            raise AssertionError("it did not start")
    assert list(tmp_path.iterdir()) == []


def measured(rate: float) -> Measure:
    return Measure(rate, p50_ms=1.0, p99_ms=2.0, count=1, seconds=1.0, server_cpu_s=0.5, generator_cpu_s=0.1)


def test_the_table_gives_medians_spread_and_ratio() -> None:
    """Medians over the runs, the lowest and highest, the ratio to the reference; failures and faults in words."""
    kind = KINDS["append"]
    results: Results = {
        Cell("append", 32, "ours"): [measured(rate) for rate in (900.0, 1200.0, 1000.0)],
        Cell("append", 32, "reference"): [measured(100.0), LoadError("stuck"), measured(300.0)],
    }
    text = table(kind, results)
    assert ratio(results, Cell("append", 32, "ours")) == 5.0
    assert "900 to 1,200" in text
    assert "5.00" in text
    assert "FAILED: stuck" in text
    assert [line.rpartition(": ")[2] for line in verdicts(results)] == ["MISSED", "reached"]
    assert broken(results) == []


def test_percentiles() -> None:
    """The share of values below; nothing of nothing."""
    assert percentile([], 0.5) == 0.0
    assert percentile([1.0], 0.99) == 1.0
    assert percentile([float(value) for value in range(100)], 0.99) == 99.0


def test_the_command_line(tmp_path: Path) -> None:
    """Loads and servers are chosen by name; an unknown one is refused."""
    chosen = plan(arguments(["--only", "sse,catchup", "--servers", "ours", "--quick", "--dir", str(tmp_path)]))
    assert [kind.name for kind in chosen.kinds] == ["sse", "catchup"]
    assert [contender.name for contender in chosen.contenders] == ["ours"]
    stepped = plan(arguments(["--only", "chat", "--sessions", "1,400", "--quick", "--dir", str(tmp_path)]))
    assert [(cell.size, cell.contender) for cell, _ in stepped.kinds[0].cells()] == [
        *((1, "ours"), (1, "upstream")),
        *((400, "ours"), (400, "upstream")),
    ]
    with pytest.raises(SystemExit):
        arguments(["--only", "nothing"])
    with pytest.raises(SystemExit):
        arguments(["--sessions", "1,0"])


def test_the_machine_is_described(tmp_path: Path) -> None:
    """The cost of a flush is measured where the data will be."""
    machine = describe(tmp_path)
    assert machine.cpus >= 1
    assert 0 < machine.fdatasync_p50_ms <= machine.fdatasync_p99_ms
    assert machine.file_system == file_system(tmp_path)
