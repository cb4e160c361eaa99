"""The command line of `scripts/bench`."""

from __future__ import annotations

import argparse
import asyncio
import resource
import shutil
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import uvloop

from benchmarks import chat, documents, peers, tracing
from benchmarks.bars import broken
from benchmarks.counters import countable
from benchmarks.kinds import KINDS, QUICK_SIZES, SERIES, Cell, Kind
from benchmarks.machines import data_folder
from benchmarks.measures import LoadError, Measure
from benchmarks.reports import RUNS, as_json, body, heading, report_of
from benchmarks.rounds import Outcome, Plan, Results, carry_out
from benchmarks.servers import OURS, REFERENCE, Contender
from benchmarks.tables import figure

SECONDS = 5.0
WARM_S = 1.0
# --quick ends within two minutes on two cores.
QUICK_SECONDS = 0.7
QUICK_WARM_S = 0.2
QUICK_RUNS = 1
SERVERS = tuple(dict.fromkeys(contender.name for kind in KINDS.values() for contender in kind.contenders))
PEERS = tuple(peer.contender.name for peer in peers.PEERS)
# Either side of 3,000 subscribers needs a file descriptor for each, and some thousands of chats more.
FILES_MIN = 8192


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench", description="Compares this server with others, in turns.")
    parser.add_argument("--quick", action="store_true", help="short loads: under two minutes, for orientation only")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--more", action="store_true", help="instead: many streams, idle readers, opening sessions")
    which.add_argument("--growth", action="store_true", help="instead: appends to a database that holds very much")
    which.add_argument("--peers", action="store_true", help="instead: servers of others, which it installs in .bench")
    which.add_argument("--strace", action="store_true", help="instead: count the fdatasync calls of a short load")
    parser.add_argument("--only", metavar="LOAD,LOAD", help=f"loads to run, of {', '.join(KINDS)}")
    parser.add_argument("--servers", metavar="NAME,NAME", help=f"servers to run, of {', '.join((*SERVERS, *PEERS))}")
    parser.add_argument("--runs", type=int, help=f"runs of each load (default: {RUNS}, {QUICK_RUNS} with --quick)")
    parser.add_argument("--seconds", type=float, help=f"length of one load (default: {SECONDS:g})")
    parser.add_argument(
        "--sessions", type=_counts, metavar="N,N", help="chat: sessions at once, for every server alike"
    )
    parser.add_argument("--rate", type=int, default=chat.PER_S, help="chat: chunks per second (default: %(default)s)")
    parser.add_argument("--dir", type=Path, help="where the servers keep their data (default: a temporary folder)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every run there as well")
    parser.add_argument("--write", action="store_true", help="write the run into docs/explanation/benchmarks.md")
    parsed = parser.parse_args(argv)
    _complete(parser, parsed)
    return parsed


def _complete(parser: argparse.ArgumentParser, parsed: argparse.Namespace) -> None:
    """Checks what belongs together, and adds `series` and what follows from it."""
    parsed.series = next((name for name in SERIES if getattr(parsed, name, False)), "ordinary")
    for option, known, default in (
        ("only", tuple(KINDS), SERIES[parsed.series]),
        ("servers", (*SERVERS, *PEERS), (*SERVERS, *PEERS)),
    ):
        names = (getattr(parsed, option) or ",".join(default)).split(",")
        if unknown := [name for name in names if name not in known]:
            parser.error(f"--{option}: no {', '.join(unknown)} among {', '.join(known)}")
        setattr(parsed, option, names)
    if parsed.runs is None:
        parsed.runs = QUICK_RUNS if parsed.quick else RUNS
    if min(parsed.runs, parsed.rate) < 1 or (parsed.seconds is not None and parsed.seconds <= 0):
        parser.error("--runs, --rate and --seconds must be positive")
    if parsed.write and (sorted(parsed.only) != sorted(SERIES[parsed.series]) or parsed.sessions):
        parser.error("--write is for whole runs: without --only and --sessions")


def _counts(text: str) -> tuple[int, ...]:
    counts = tuple(map(int, text.split(",")))
    if min(counts) < 1:
        raise ValueError(text)
    return counts


def plan(options: argparse.Namespace, others: Sequence[Contender] = ()) -> Plan:
    """What is to be run; `others` take part in the loads of streams."""
    return Plan(
        kinds=tuple(_fitted(KINDS[name], options, others) for name in options.only if not _misses(KINDS[name])),
        runs=options.runs,
        seconds=options.seconds or (QUICK_SECONDS if options.quick else SECONDS),
        warm_s=QUICK_WARM_S if options.quick else WARM_S,
        folder=options.dir or data_folder(),
    )


def _misses(kind: Kind) -> bool:
    """Whether this machine lacks a program that the load needs."""
    return bool(kind.program) and shutil.which(kind.program) is None


def _left_out(options: argparse.Namespace) -> Iterator[str]:
    for kind in (KINDS[name] for name in options.only):
        if _misses(kind):
            yield f"{kind.name} was not run: {kind.program} is not installed (apt-get install {kind.program})"
    if not countable():
        yield "Instructions and cycles were not counted: this machine does not let `perf stat` see them."


def _fitted(kind: Kind, options: argparse.Namespace, others: Sequence[Contender]) -> Kind:
    """The load as the options want it."""
    if options.quick:
        kind = replace(kind, sizes=QUICK_SIZES.get(kind.name, kind.sizes))
    if kind.name == "chat":
        kind = _fitted_chat(kind, options)
    if REFERENCE in kind.contenders:
        kind = replace(kind, contenders=(*kind.contenders, *others))
    return replace(kind, contenders=tuple(one for one in kind.contenders if one.name in options.servers))


def _fitted_chat(kind: Kind, options: argparse.Namespace) -> Kind:
    if options.sessions:
        kind = replace(kind, sizes=options.sessions, sizes_max={})
    title = kind.title.replace(f"{chat.PER_S} chunks/s", f"{options.rate} chunks/s")
    return replace(kind, title=title, run=partial(chat.run, per_s=options.rate))


def progress(cell: Cell, turn: int, outcome: Outcome) -> None:
    said = figure(outcome.rate) if isinstance(outcome, Measure) else f"failed: {outcome}"
    sys.stderr.write(f"run {turn + 1}: {cell.kind} {cell.size}, {cell.contender}: {said}\n")


def raise_file_limit() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES_MIN if hard == resource.RLIM_INFINITY else min(FILES_MIN, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


async def _carried_out(work: Plan) -> Results:
    """Whoever ends the benchmark, by SIGTERM as by SIGINT, ends the server it has started as well."""
    _end_at_sigterm()
    return await carry_out(work, progress)


def _end_at_sigterm() -> None:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)


async def _traced(options: argparse.Namespace) -> int:
    """Counts what each server asks of the disk, and says so; the exit code."""
    _end_at_sigterm()
    program = tracing.strace()
    if program is None:
        sys.stderr.write("strace is not there, or may not look at other processes\n")
        return 2
    honest = True
    for contender in (OURS, REFERENCE):
        if contender.name in options.servers:
            syncs = await tracing.count(contender, program, options.dir or data_folder())
            sys.stdout.write(f"{contender.name}: {syncs}\n")
            honest = honest and syncs.honest
    return 0 if honest else 1


async def _compared(options: argparse.Namespace) -> int:
    others, lines = peers.available(_asked(options)) if options.peers else ((), ())
    lines = (*lines, *_left_out(options))
    work = plan(options, others)
    report = report_of(work, options.series, quick=options.quick, lines=lines)
    sys.stdout.write(heading(report) + "\n")
    results = await _carried_out(work)
    text = body(work, results)
    sys.stdout.write(f"\n{text}\n")
    if options.json:
        options.json.write_text(as_json(report, work, results))
    if options.write:
        documents.write(report, text, results)
    return 1 if broken(results) else 0


def _asked(options: argparse.Namespace) -> list[peers.Peer]:
    return [peer for peer in peers.PEERS if peer.contender.name in options.servers]


def main(argv: Sequence[str]) -> int:
    """0 when every promise was kept, 1 when a server broke one, 2 when the benchmark could not run or was ended."""
    options = arguments(argv)
    raise_file_limit()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_traced(options) if options.strace else _compared(options))
    except LoadError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    except (KeyboardInterrupt, asyncio.CancelledError):
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
