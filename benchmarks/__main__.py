"""The command line of `scripts/bench`."""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import resource
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from importlib import metadata
from pathlib import Path

import uvloop

from benchmarks import chat
from benchmarks.machines import IN_MEMORY, Machine, data_folder, describe
from benchmarks.measures import LoadError, Measure
from benchmarks.rounds import KINDS, Cell, Kind, Outcome, Plan, Results, carry_out
from benchmarks.tables import broken, figure, table, verdicts

RUNS = 3
SECONDS = 5.0
WARM_S = 1.0
# --quick ends within two minutes on two cores.
QUICK_SECONDS = 1.0
QUICK_WARM_S = 0.3
QUICK_SIZES = {"catchup": (20_000,), "chat": (1, 50)}
SERVERS = tuple(dict.fromkeys(contender.name for kind in KINDS.values() for contender in kind.contenders))
# Above this something else was using the processors, and the figures are too low.
LOAD_AVERAGE_MAX = 0.5
# Either side of 1,000 subscribers needs a file descriptor for each.
FILES_MIN = 8192


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that is printed before the tables, and written to the JSON file."""

    started: str
    machine: Machine
    versions: dict[str, str]
    durability: dict[str, str]
    generator: str
    runs: int
    seconds: float


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench", description="Compares this server with others, in turns.")
    parser.add_argument("--quick", action="store_true", help="short loads: under two minutes, for orientation only")
    parser.add_argument("--only", default=",".join(KINDS), help="loads to run (default: %(default)s)")
    parser.add_argument("--servers", default=",".join(SERVERS), help="servers to run (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=RUNS, help="runs of each load (default: %(default)s)")
    parser.add_argument("--seconds", type=float, help=f"length of one load (default: {SECONDS:g})")
    parser.add_argument(
        "--sessions", type=_counts, metavar="N,N", help="chat: sessions at once, for every server alike"
    )
    parser.add_argument("--rate", type=int, default=chat.PER_S, help="chat: chunks per second (default: %(default)s)")
    parser.add_argument("--dir", type=Path, help="where the servers keep their data (default: a temporary folder)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every run there as well")
    parsed = parser.parse_args(argv)
    for option, known in (("only", KINDS), ("servers", SERVERS)):
        names = getattr(parsed, option).split(",")
        if unknown := [name for name in names if name not in known]:
            parser.error(f"--{option}: no {', '.join(unknown)} among {', '.join(known)}")
        setattr(parsed, option, names)
    if min(parsed.runs, parsed.rate) < 1 or (parsed.seconds is not None and parsed.seconds <= 0):
        parser.error("--runs, --rate and --seconds must be positive")
    return parsed


def _counts(text: str) -> tuple[int, ...]:
    counts = tuple(map(int, text.split(",")))
    if min(counts) < 1:
        raise ValueError(text)
    return counts


def plan(options: argparse.Namespace) -> Plan:
    return Plan(
        kinds=tuple(_fitted(KINDS[name], options) for name in options.only),
        runs=options.runs,
        seconds=options.seconds or (QUICK_SECONDS if options.quick else SECONDS),
        warm_s=QUICK_WARM_S if options.quick else WARM_S,
        folder=options.dir or data_folder(),
    )


def _fitted(kind: Kind, options: argparse.Namespace) -> Kind:
    """The load as the options want it."""
    if options.quick:
        kind = replace(kind, sizes=QUICK_SIZES.get(kind.name, kind.sizes))
    if kind.name == "chat":
        kind = _fitted_chat(kind, options)
    return replace(kind, contenders=tuple(one for one in kind.contenders if one.name in options.servers))


def _fitted_chat(kind: Kind, options: argparse.Namespace) -> Kind:
    if options.sessions:
        kind = replace(kind, sizes=options.sessions, sizes_max={})
    title = kind.title.replace(f"{chat.PER_S} chunks/s", f"{options.rate} chunks/s")
    return replace(kind, title=title, run=partial(chat.run, per_s=options.rate))


def report_of(work: Plan) -> Report:
    return Report(
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=describe(work.folder),
        versions={contender.name: contender.version() for contender in work.contenders},
        durability={contender.name: contender.durability for contender in work.contenders},
        generator=f"Python {platform.python_version()}, uvloop {metadata.version('uvloop')}, one process",
        runs=work.runs,
        seconds=work.seconds,
    )


def heading(report: Report) -> str:
    machine = report.machine
    lines = [
        f"Machine: {machine.cpus} CPUs ({machine.processor}), {machine.system}, {machine.file_system}; "
        f"fdatasync of 4 KiB {machine.fdatasync_p50_ms:.2f} ms (p99 {machine.fdatasync_p99_ms:.2f} ms)",
        *(f"{name}: {version}; {report.durability[name]}" for name, version in report.versions.items()),
        f"Load generator: {report.generator}. It shares the CPUs with the server it measures.",
        f"Medians of {report.runs} runs of {report.seconds:g} s, servers in turns, each started afresh with an empty store. "
        "Every acknowledged append was read back; deliveries were counted at the readers' sockets, and every answer of a "
        "chat was whole and in order there.",
    ]
    if machine.file_system in IN_MEMORY:
        lines.append("CAUTION: the data is on a file system in memory, so that nothing here is durable.")
    if machine.load_average > LOAD_AVERAGE_MAX:
        lines.append(f"CAUTION: the machine was not idle before this began (load average {machine.load_average:.1f}).")
    if report.runs < RUNS:
        lines.append(f"CAUTION: fewer than {RUNS} runs; take no figure from here.")
    return "\n".join(lines)


def progress(cell: Cell, turn: int, outcome: Outcome) -> None:
    said = figure(outcome.rate) if isinstance(outcome, Measure) else f"failed: {outcome}"
    sys.stderr.write(f"run {turn + 1}: {cell.kind} {cell.size}, {cell.contender}: {said}\n")


def as_json(report: Report, work: Plan, results: Results) -> str:
    def plain(outcome: Outcome) -> dict[str, object]:
        return asdict(outcome) if isinstance(outcome, Measure) else {"failed": str(outcome)}

    units = {kind.name: kind.unit for kind in work.kinds}
    cells = [
        {**asdict(cell), "unit": units[cell.kind], "runs": [plain(outcome) for outcome in outcomes]}
        for cell, outcomes in results.items()
    ]
    return json.dumps({**asdict(report), "cells": cells}, indent=2) + "\n"


def raise_file_limit() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES_MIN if hard == resource.RLIM_INFINITY else min(FILES_MIN, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


async def _carried_out(work: Plan) -> Results:
    """Whoever ends the benchmark, by SIGTERM as by SIGINT, ends the server it has started as well."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await carry_out(work, progress)


def main(argv: Sequence[str]) -> int:
    """0 when every promise was kept, 1 when a server broke one, 2 when the benchmark could not run or was ended."""
    options = arguments(argv)
    work = plan(options)
    raise_file_limit()
    try:
        report = report_of(work)
    except LoadError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stdout.write(heading(report) + "\n")
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            results = runner.run(_carried_out(work))
    except (KeyboardInterrupt, asyncio.CancelledError):
        return 2
    for kind in filter(lambda kind: kind.contenders, work.kinds):
        sys.stdout.write("\n" + table(kind, results) + "\n")
    sys.stdout.write("\n" + "\n".join(verdicts(results)) + "\n")
    if options.json:
        options.json.write_text(as_json(report, work, results))
    return 1 if broken(results) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
