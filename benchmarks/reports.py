"""A whole run as text and as JSON: what was measured on, with what, the tables, and all that has to be known of them."""

from __future__ import annotations

import json
import platform
import sqlite3
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import metadata

from benchmarks.bars import verdicts
from benchmarks.creations import SECONDS_MAX
from benchmarks.fanout import TIMED_READERS_MAX
from benchmarks.kinds import CATCHUP_SETTLE_S
from benchmarks.machines import IN_MEMORY, Machine, describe
from benchmarks.measures import Measure
from benchmarks.rounds import Outcome, Plan, Results
from benchmarks.servers import READERS_MAX
from benchmarks.tables import table

RUNS = 3
"""Fewer give no figure to quote."""
LOAD_AVERAGE_MAX = 0.5
"""Above this something else was using the processors, and the figures are too low."""
VERSION_MAX_S = 30.0
TARGETS = "What this server is to reach, by the medians above:"


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that is told before the tables; `lines` is what else was seen, and who was not run."""

    series: str
    started: str
    machine: Machine
    tools: str
    versions: Mapping[str, str]
    durability: Mapping[str, str]
    generator: str
    runs: int
    seconds: float
    quick: bool
    lines: Sequence[str]


def report_of(work: Plan, series: str, *, quick: bool, lines: Sequence[str] = ()) -> Report:
    """Raises LoadError where something is missing that the servers need."""
    return Report(
        series=series,
        started=datetime.now(UTC).isoformat(timespec="minutes"),
        machine=describe(work.folder),
        tools=_tools(),
        versions={contender.name: contender.version() for contender in work.contenders},
        durability={contender.name: contender.durability for contender in work.contenders},
        generator=f"Python {platform.python_version()}, uvloop {metadata.version('uvloop')}, one process",
        runs=work.runs,
        seconds=work.seconds,
        quick=quick,
        lines=lines,
    )


def _tools() -> str:
    tools = {"Node.js": _said("node", "--version"), "npm": _said("npm", "--version")}
    found = [f"{name} {version}" for name, version in tools.items() if version]
    return ", ".join([f"Python {platform.python_version()}", f"SQLite {sqlite3.sqlite_version}", *found])


def _said(*command: str) -> str:
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=VERSION_MAX_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return answer.stdout.strip()


def heading(report: Report) -> str:
    machine = report.machine
    lines = [
        f"Machine: {machine.cpus} CPUs ({machine.processor}), {machine.system}, {machine.file_system}; "
        f"fdatasync of 4 KiB {machine.fdatasync_p50_ms:.2f} ms (p99 {machine.fdatasync_p99_ms:.2f} ms); {report.tools}",
        *(f"{name}: {version}; {report.durability[name]}" for name, version in report.versions.items()),
        *report.lines,
        f"Load generator: {report.generator}. It shares the CPUs with the server it measures. Where the generator's CPU "
        "is near 100 %, the rate is the generator's limit.",
        f"Medians of {report.runs} runs of {report.seconds:g} s, servers in turns, each started afresh. Every acknowledged "
        "append was read back; deliveries were counted at the readers' sockets, and every answer of a chat was whole and "
        "in order there.",
        *_SAID_OF.get(report.series, ()),
        *cautions(report),
    ]
    return "\n".join(lines)


_SAID_OF = {
    "ordinary": (
        f"This server's limit of live readers of one session is raised to {READERS_MAX:,}; its other settings, and those "
        "of all others, are what they are without any.",
        "The rate of a paced load says whether the server keeps up, and the CPU what it costs; only where it does not "
        "keep up is its rate a limit.",
        f"Of the subscribers of a fan-out {TIMED_READERS_MAX}, spread evenly, have their deliveries timed; all have them "
        "counted. The model of a chat stamps its deltas by the machine's clock, which the generator reads as well.",
        "The reference is spared 3,000 subscribers: a second of 1,000 leaves it a minute behind. The upstream chat stack is "
        "spared more than 50 sessions: at 200 it ends by itself.",
        f"A catch-up begins {CATCHUP_SETTLE_S:g} s after the stream was written, in which this server joins what was appended "
        "to larger pieces, as it does in the background all the time. Every server reads from the page cache.",
    ),
    "growth": (
        "Filled in this process by the store's own compaction, whose rows are those that the server would have left: the "
        "messages of one stream a thousand at a time, or streams with a message each, a thousand to a transaction. A "
        "copy of the filled folder was made just before each start, so that the file "
        "was in the page cache. `ready s` is from the start of the process until /readyz says 200.",
    ),
    "more": (
        "Memory is what the process has resident (VmRSS, VmHWM); what the kernel keeps for sockets is not in it.",
        "The session that is hydrated was written over HTTP to a server, which stored its snapshot and was then ended; "
        "what was stored was looked for in the file.",
        "Idle readers wait on streams without a message, and on sessions that nobody has written to. The figure is what "
        "the process has grown by since other readers had come and gone, for each reader.",
        f"A server that needs more than {SECONDS_MAX:g} s for its streams is measured by those it has made till then.",
    ),
    "peers": (
        "Each server is started so that it keeps what it acknowledges, as far as its own settings allow; its other "
        "settings are what they are without any. How each was installed is said beside its name.",
    ),
}


def cautions(report: Report) -> list[str]:
    """What keeps the figures from being quoted."""
    found = []
    if report.machine.file_system in IN_MEMORY:
        found.append("CAUTION: the data is on a file system in memory, so that nothing here is durable.")
    if (average := report.machine.load_average) > LOAD_AVERAGE_MAX:
        found.append(f"CAUTION: the machine was not idle before this began (load average {average:.1f}).")
    if report.runs < RUNS:
        found.append(f"CAUTION: fewer than {RUNS} runs; take no figure from here.")
    if report.quick:
        found.append("CAUTION: short loads in small sizes (--quick), for orientation only.")
    return found


def body(work: Plan, results: Results) -> str:
    """The tables, and which bars were reached."""
    tables = [table(kind, results) for kind in work.kinds if kind.contenders]
    told = [f"- {line}" for line in verdicts(results)]
    return "\n\n".join([*tables, *([f"{TARGETS}\n\n" + "\n".join(told)] if told else [])])


def as_json(report: Report, work: Plan, results: Results) -> str:
    def plain(outcome: Outcome) -> dict[str, object]:
        return asdict(outcome) if isinstance(outcome, Measure) else {"failed": str(outcome)}

    units = {kind.name: kind.unit for kind in work.kinds}
    cells = [
        {**asdict(cell), "unit": units[cell.kind], "runs": [plain(outcome) for outcome in outcomes]}
        for cell, outcomes in results.items()
    ]
    return json.dumps({**asdict(report), "cells": cells}, indent=2) + "\n"
