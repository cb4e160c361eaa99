"""What the benchmark takes from other programs: wrk's appends, and the counters that perf reads."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace

import pytest

from benchmarks import appends, counters, wrk
from benchmarks.__main__ import arguments, main, plan
from benchmarks.kinds import KINDS, Cell
from benchmarks.measures import LoadError, Measure
from benchmarks.rounds import Results
from benchmarks.tables import table
from tests.test_bench import TinyServer, measured
from tests.tiny import served

needs_wrk = pytest.mark.skipif(shutil.which(wrk.PROGRAM) is None, reason="apt-get install wrk")


@needs_wrk
async def test_what_wrk_appends_is_read_back() -> None:
    """Every request that wrk counts is a message in one of the streams, and of the size that our own load has."""
    tiny = TinyServer()
    async with served(tiny) as target:
        measure = await wrk.run(target, 4, 0.1, 0.1)
    assert measure.faults == measure.notes == ()
    assert 0 < measure.count <= tiny.appended
    assert 0 < measure.p50_ms <= measure.p99_ms
    assert {len(raw) for messages in tiny.streams.values() for raw in messages} == {appends.MESSAGE_BYTES}
    assert len([messages for messages in tiny.streams.values() if messages]) == appends.STREAM_COUNT


@needs_wrk
async def test_what_a_server_forgets_is_told() -> None:
    """A server that acknowledges what it does not keep is found out by the count."""
    async with served(TinyServer(forget=2)) as target:
        measure = await wrk.run(target, 4, 0.1, 0.1)
    assert measure.faults


@needs_wrk
async def test_a_refusal_is_not_an_append() -> None:
    """Refusals are a note, and no rate is made of them."""
    async with served(TinyServer(status=503)) as target:
        measure = await wrk.run(target, 2, 0.1, 0.1)
    assert (measure.count, measure.rate, measure.faults) == (0, 0.0, ())
    assert len(measure.notes) == 1


def test_what_may_have_been_in_flight_is_no_fault() -> None:
    """As many messages more than acknowledged as there were requests in flight at the end; not one more, not one less."""
    assert wrk.faults(100, 100, 8) == wrk.faults(100, 108, 8) == ()
    assert wrk.faults(100, 99, 8)
    assert wrk.faults(100, 109, 8)


def test_a_generator_that_says_nothing_has_failed() -> None:
    """Its last words are told."""
    with pytest.raises(LoadError, match="unable to connect"):
        wrk.result_in("unable to connect to 127.0.0.1\n")


def test_a_load_whose_program_is_missing_is_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The others are run; the report says what was left out, and how to have it."""
    monkeypatch.setenv("PATH", "")
    options = arguments(["--only", "append-wrk,catchup"])
    assert [kind.name for kind in plan(options).kinds] == ["catchup"]
    assert main(["--only", "append-wrk", "--quick"]) == 0
    assert "apt-get install wrk" in capsys.readouterr().out


def test_counts_are_read_as_perf_prints_them() -> None:
    """A number for each event that was counted; what the machine does not support is left out."""
    said = "1234567,,instructions:u,812,100.00,1.02,insn per cycle\n<not supported>,,cycles,0,100.00,,\n\nwords\n"
    assert counters.counts_in(said) == {"instructions": 1234567.0}


def test_a_process_is_counted_while_it_works() -> None:
    """By an event that needs no help of the processor; a machine without perf, or that forbids it, counts nothing."""
    counting = counters.Counters(os.getpid(), ("task-clock",))
    while os.times().user == 0.0:
        sum(range(1000))
    sum(range(3_000_000))
    counted = counting.stop()
    assert counted["task-clock"] > 0 if counters.countable(("task-clock",)) else counted == {}
    assert counting.stop() == {}


def test_counts_are_told_for_each_unit_of_the_load() -> None:
    """Two columns where the machine counts, the median over the runs in each; none where it does not."""

    def counted(instructions: float) -> Measure:
        return replace(measured(100.0), count=10, counts={"instructions": instructions, "cycles": 20.0})

    cell = Cell("append", 32, "ours")
    results: Results = {cell: [counted(2_000_000.0), counted(1_000_000.0), counted(9_000_000.0)]}
    row = next(line for line in table(KINDS["append"], results).splitlines() if line.strip("| ").startswith("32"))
    assert [value.strip() for value in row.split("|")[-3:-1]] == ["200,000", "2.00"]
    assert "instructions/op" not in table(KINDS["append"], {cell: [measured(100.0)]})
