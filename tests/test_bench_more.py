"""The benchmark's further loads on real servers, and what is written of a run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks import appends, creations, documents, growth, hydration, idle, peers, tracing
from benchmarks.__main__ import arguments, plan
from benchmarks.bars import BARS, grown, verdicts
from benchmarks.kinds import KINDS, QUICK_SIZES, SERIES, Cell
from benchmarks.machines import Machine
from benchmarks.measures import LoadError, Measure, Memory, Target, memory_of
from benchmarks.plots import Axis, Point, appends_plot, plot
from benchmarks.reports import TARGETS, Report, body, heading
from benchmarks.rounds import Fillings, Results, carry_out
from benchmarks.servers import OURS, Contender, running
from benchmarks.tables import table
from benchmarks.wire import STREAMS
from tests.test_bench import TinyServer
from tests.tiny import served

SECONDS = 0.1


def measured(rate: float, **more: float) -> Measure:
    return Measure(rate, 1.0, 2.0, 1, 1.0, 0.5, 0.1, more=more)


async def test_streams_are_made_and_read_back() -> None:
    """Each is created and given its message, and counted when both were acknowledged."""
    tiny = TinyServer()
    async with served(tiny) as target:
        measure = await creations.run(target, 100, 0.0, 0.0)
    assert measure.faults == measure.notes == ()
    assert measure.count == len(tiny.streams) == tiny.appended == 100
    assert {len(messages) for messages in tiny.streams.values()} == {1}


async def test_a_stream_without_its_message_is_told() -> None:
    """What was acknowledged and is not there is a fault; what was refused is neither made nor lost."""
    async with served(TinyServer(forget=10)) as target:
        lost = await creations.run(target, 50, 0.0, 0.0)
    async with served(TinyServer(status=503)) as target:
        refused = await creations.run(target, 50, 0.0, 0.0)
    assert any("5 streams" in fault for fault in lost.faults)
    assert (refused.count, refused.faults, refused.notes) == (0, (), ("50 appends answered 503",))


async def test_a_server_that_hangs_up_is_told() -> None:
    """The load ends when a connection is closed before an answer."""
    async with served(TinyServer(cut_append=20)) as target:
        with pytest.raises(LoadError, match="closed by the server"):
            await creations.run(target, 50, 0.0, 0.0)


@pytest.mark.parametrize("load", [idle.of_streams, idle.of_sessions])
async def test_idle_readers(load: Callable[[Target, int, float, float], object], tmp_path: Path) -> None:
    """All of them are there while the memory is looked at; a reader takes some, and not very much."""
    kind = next(kind for kind in KINDS.values() if kind.run is load)
    async with running(kind.contenders[0], tmp_path) as target:
        measure = await kind.run(target, 150, 0.0, 0.0)
    assert measure.count == 150
    assert 0 <= measure.rate < 100
    assert "KiB/reader" in table(kind, {Cell(kind.name, 150, "ours"): [measure]})


async def test_idle_readers_cut_off_are_told() -> None:
    """A server that ends the reads has no idle readers."""

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if b"PUT" in await reader.readuntil(b"\r\n\r\n"):
            writer.write(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n")
        else:
            writer.write(b"HTTP/1.1 200 OK\r\n\r\nevent: control\ndata:{}\n\n")
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    async with server:
        with pytest.raises(LoadError, match="cut off"):
            await idle.of_streams(Target(server.sockets[0].getsockname()[1]), 3, 0.0, 0.0)


async def test_hydration_begins_with_a_stored_snapshot(tmp_path: Path) -> None:
    """The folder holds a session with its snapshot, and a server that starts there answers with all of its text."""
    chunks = 12_000
    filled = tmp_path / "filled"
    filled.mkdir()
    await hydration.prepare(filled, chunks)
    async with running(OURS, tmp_path, filled) as target:
        measure = await hydration.hydrate(target, chunks, 0.0, 0.0)
    assert measure.faults == ()
    assert measure.count == hydration.REQUESTS
    assert measure.more[hydration.SIZE] * 1000 > chunks * hydration.CHARS_PER_CHUNK
    assert [path.name for path in tmp_path.iterdir()] == ["filled"]


async def test_a_session_without_a_stored_snapshot_is_not_hydrated(tmp_path: Path) -> None:
    """One that is too short to be stored is not taken for one that was."""
    with pytest.raises(LoadError, match="the stored snapshot is of 0 of"):
        await hydration.prepare(tmp_path, 200)


async def test_opening_a_session(tmp_path: Path) -> None:
    """Few chunks or many: the same messages and as many bytes."""
    sizes = []
    for chunks in (5, 50):
        async with running(OURS, tmp_path) as target:
            measure = await hydration.open_session(target, chunks, 0.0, SECONDS)
        assert measure.faults == ()
        sizes.append(measure.more[hydration.SIZE])
    assert sizes[0] == sizes[1]


def test_a_transcript_is_cut_in_chunks() -> None:
    """As many as are asked for, and together the whole text."""
    transcript = hydration.Transcript(7, 100)
    lines = list(transcript.lines())
    assert len(transcript.answer) == 100
    assert len(lines) == hydration.TURNS * (3 + 1 + 2 + 7 + 1)
    assert hydration.faults([{"parts": []}], transcript) != ()


@pytest.mark.parametrize(("name", "size"), [("growth-messages-1", 2500), ("growth-streams-32", 1500)])
async def test_appends_to_a_filled_database(name: str, size: int, tmp_path: Path) -> None:
    """What was written in this process is what the server finds, and goes on with."""
    kind = KINDS[name]
    fillings = Fillings(tmp_path)
    try:
        filled = await fillings.get(kind, size)
        assert filled == await fillings.get(kind, size)
        async with running(OURS, tmp_path, filled) as target:
            measure = await kind.run(target, size, 0.0, SECONDS)
    finally:
        fillings.close()
    assert measure.faults == ()
    assert measure.count > 0
    assert measure.more[growth.READY] > 0
    assert list(tmp_path.iterdir()) == []


async def test_the_filled_stream_is_whole(tmp_path: Path) -> None:
    """Every message that was filled in is there for a reader, and before what is appended."""
    await growth.fill_messages(tmp_path, 2500)
    async with running(OURS, tmp_path.parent, tmp_path) as target:
        await growth.to_one(target, 2500, 0.0, SECONDS, connections=1)
        ids = await appends.read_ids(target.port, f"{STREAMS}growth-0", "-1")
    assert ids[:2500] == [f"000-{number:08d}" for number in range(2500)]
    assert len(ids) > 2500


def test_growth_is_told_against_the_smallest() -> None:
    """The ratio of p50 to that of the smallest size, in the table and as a verdict."""
    kind = replace(KINDS["growth-streams-1"], sizes=(0, 1_000_000))
    slower = replace(measured(9.0, **{growth.READY: 1.0}), p50_ms=1.2)
    results: Results = {
        Cell(kind.name, 0, "ours"): [measured(10.0)],
        Cell(kind.name, 1_000_000, "ours"): [slower],
    }
    assert grown(results, Cell(kind.name, 1_000_000, "ours")) == 1.2
    assert "p50 x smallest" in table(kind, results)
    assert [line.rpartition(": ")[2] for line in verdicts(results)] == ["reached", "reached"]


def test_the_bars_are_of_what_is_run() -> None:
    """Each names a load in a size it has; every series is made of loads, and has no load of another."""
    assert all(bar.size in KINDS[bar.kind].sizes for bar in BARS)
    assert {*QUICK_SIZES} <= {*KINDS}
    series = [name for key in ("ordinary", "more", "growth") for name in SERIES[key]]
    assert sorted(series) == sorted(KINDS)


@pytest.mark.parametrize("option", ["--more", "--growth", "--peers"])
def test_runs_of_their_own(option: str, tmp_path: Path) -> None:
    """Each has its loads; only a whole run is written down, and no two at once."""
    series = option.removeprefix("--")
    chosen = arguments([option, "--quick", "--write", "--dir", str(tmp_path)])
    assert chosen.series == series
    assert [kind.name for kind in plan(chosen).kinds] == list(SERIES[series])
    for refused in ([option, "--only", "append", "--write"], [option, "--strace"]):
        with pytest.raises(SystemExit):
            arguments(refused)


def test_peers_take_part_in_loads_of_streams(tmp_path: Path) -> None:
    """One that is there is a contender; one that is not is a line that says why."""

    def missing() -> None:
        raise peers.NotThere("there is no such thing")

    other = Contender("rakaia", "none", lambda: "1", ("true",), {}, "/")
    there, lines = peers.available([peers.Peer(other, lambda: None), peers.Peer(replace(other, name="caddy"), missing)])
    assert lines == ("caddy: not run: there is no such thing",)
    options = arguments(["--peers", "--quick", "--servers", "ours,rakaia", "--dir", str(tmp_path)])
    assert {one.name for kind in plan(options, there).kinds for one in kind.contenders} == {"ours", "rakaia"}


def test_an_installation_that_fails_is_a_sentence() -> None:
    """The command, as one would type it here, and the last of what it said."""
    with pytest.raises(peers.NotThere, match=r"`python3 -c .*` failed: no such luck"):
        peers.install_by("python3", "-c", "raise SystemExit('no such luck')")
    with pytest.raises(peers.NotThere, match="FileNotFoundError"):
        peers.install_by("a-program-that-nobody-has")


async def test_a_run_of_all_servers_is_told(tmp_path: Path) -> None:
    """A server that does not start is a failure in its row, and the others go on."""
    absent = replace(OURS, name="reference", command=("sh", "-c", "echo no such luck"))
    kind = replace(KINDS["append"], sizes=(1,), contenders=(OURS, absent))
    work = replace(plan(arguments(["--quick", "--dir", str(tmp_path)])), kinds=(kind,), seconds=SECONDS, warm_s=0.0)
    results = await carry_out(work, lambda *_: None)
    text = body(work, results)
    assert isinstance(results[Cell("append", 1, "reference")][0], LoadError)
    assert "no such luck" in text
    assert TARGETS not in text, "there is no figure that has a target"
    assert list(tmp_path.iterdir()) == []


def report(series: str) -> Report:
    machine = Machine("a processor", 2, "Linux 6", "ext4", 0.1, 0.1, 0.2)
    told = {"ours": "1"}
    return Report(series, "2030-01-01T00:00", machine, "Python 3", told, told, "a loop", 3, 5.0, False, ())


def test_a_run_takes_its_own_place_in_the_document(tmp_path: Path) -> None:
    """The other sections stay as they are; what was never run says how it is."""
    path, picture = tmp_path / "benchmarks.md", tmp_path / "benchmarks.svg"
    documents.write(report("growth"), "the first table", {}, path, picture)
    documents.write(report("more"), "another", {}, path, picture)
    documents.write(report("growth"), "the second table", {}, path, picture)
    text = path.read_text()
    assert "the first table" not in text
    assert text.index("another") < text.index("the second table")
    assert "Not measured yet: `scripts/bench --write`." in text
    assert not picture.exists()
    assert documents.document(documents.sections(text)) == text


def test_the_document_is_what_the_script_writes() -> None:
    """Nobody has changed it by hand but inside of a section, and the plot is there when its figures are."""
    text = documents.DOCUMENT.read_text()
    assert documents.document(documents.sections(text)) == text
    assert documents.PLOT.exists() == ("ordinary" in documents.sections(text))


def test_the_ordinary_run_has_a_plot(tmp_path: Path) -> None:
    """It is well-formed, and has a point for each number of connections that was measured of either server."""
    results: Results = {
        Cell("append", 1, "ours"): [measured(1000.0)],
        Cell("append", 32, "ours"): [measured(9000.0)],
        Cell("append", 32, "reference"): [measured(1500.0), LoadError("stuck")],
    }
    path, picture = tmp_path / "benchmarks.md", tmp_path / "benchmarks.svg"
    documents.write(report("ordinary"), "a table", results, path, picture)
    drawn = ElementTree.fromstring(picture.read_text())
    names = [one.tag.rpartition("}")[2] for one in drawn.iter()]
    assert names.count("circle") == 3
    assert "prefers-color-scheme: dark" in picture.read_text()
    assert ElementTree.fromstring(appends_plot({})) is not None


def test_a_plot_holds_its_points() -> None:
    """Every point is inside the axes, whatever its size, and an axis has whole decades."""
    line = [Point(1, 950.0, 0.31), Point(32, 21_000.0, 480.0)]
    drawn = ElementTree.fromstring(plot({"one": line, "two": []}))
    circles = [one for one in drawn.iter() if one.tag.endswith("circle")]
    assert len(circles) == 2
    assert all(0 < float(one.attrib["cx"]) < 720 and 0 < float(one.attrib["cy"]) < 420 for one in circles)
    axis = Axis.over([100.0], 0.0, 10.0)
    assert (axis.at(100.0), axis.at(1000.0), axis.ticks()) == (0.0, 10.0, [100, 200, 500, 1000])


def test_what_keeps_figures_from_being_quoted() -> None:
    """A busy machine, a disk in memory, too few runs and short ones are said above the tables."""
    good = report("ordinary")
    busy = replace(good.machine, load_average=3.0, file_system="tmpfs")
    assert "CAUTION" not in heading(good)
    assert heading(replace(good, machine=busy, runs=1, quick=True)).count("CAUTION") == 4


def test_memory_is_of_the_process() -> None:
    """What this process has now is no more than what it had at most; of two processes the sum."""
    own = memory_of()
    assert 0 < own.now_bytes <= own.peak_bytes
    assert own + Memory(1, 2) == Memory(own.now_bytes + 1, own.peak_bytes + 2)
    assert memory_of("none") == Memory(0, 0)


def test_calls_of_the_disk_are_counted() -> None:
    """Of any thread, once each, and not when they end; too few of them are no promise kept."""
    text = "12 fdatasync(7) = 0\n13 fsync(8 <unfinished ...>\n13 <... fsync resumed>) = 0\n12 +++ exited with 0 +++\n"
    assert len(tracing.SYNCS.findall(text)) == 2
    assert tracing.Syncs(5, 100, 5).honest
    assert not tracing.Syncs(4, 100, 5).honest
    assert not tracing.Syncs(0, 100, None).honest
    assert "NOT as promised" in str(tracing.Syncs(4, 100, 5))
