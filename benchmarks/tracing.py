"""Whether the disk is asked: a server runs under strace for a moment, and its calls are compared with its flushes."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks import appends
from benchmarks.measures import LoadError, Target
from benchmarks.servers import OURS, Contender, running
from benchmarks.wire import Connection, opened, request

CONNECTIONS = 8
SECONDS = 1.0
SYNCS = re.compile(r"^(?:\[?(?:pid +)?[0-9]+\]? +)?f(?:data)?sync\(", re.MULTILINE)
FLUSHES = re.compile(r"^durable_chat_flush_seconds_count ([0-9.]+)", re.MULTILINE)
PROBE_MAX_S = 10.0


@dataclass(frozen=True, slots=True)
class Syncs:
    """
    What was seen during a short load: calls of fsync and fdatasync, appends that were acknowledged, and the flushes that
    the server counts itself, where it says.
    """

    calls: int
    appends: int
    flushes: int | None

    @property
    def honest(self) -> bool:
        """Each flush has asked the disk at least once; one flush may hold many appends."""
        return self.calls > 0 and (self.flushes is None or self.calls >= self.flushes)

    def __str__(self) -> str:
        flushes = "" if self.flushes is None else f" in {self.flushes:,} flushes"
        word = "as promised" if self.honest else "NOT as promised"
        return f"{self.appends:,} appends acknowledged{flushes}; strace saw {self.calls:,} fsync or fdatasync: {word}"


def strace() -> str | None:
    """The program, where it is there and may look at another."""
    program = shutil.which("strace")
    if program is None:
        return None
    try:
        subprocess.run([program, "-D", "-o", "/dev/null", "true"], capture_output=True, timeout=PROBE_MAX_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return program


def traced(contender: Contender, program: str, seen: Path) -> Contender:
    """The same server with strace beside it (-D), which ends with it and writes each call to a file as it begins."""
    command = (program, "-D", "-f", "-qq", "-e", "trace=fsync,fdatasync", "-e", "signal=none", "-o", str(seen))
    return replace(contender, command=(*command, *contender.command))


async def count(contender: Contender, program: str, folder: Path, seconds: float = SECONDS) -> Syncs:
    """Raises LoadError."""
    seen = folder / f"strace-{contender.name}"
    try:
        async with running(traced(contender, program, seen), folder) as target:
            before = _calls(seen)
            flushes = await _flushes(target) if contender.name == OURS.name else None
            measure = await appends.run(target, CONNECTIONS, 0.0, seconds)
            after = None if flushes is None else await _flushes(target)
            calls = _calls(seen) - before
    finally:
        seen.unlink(missing_ok=True)
    if measure.faults:
        raise LoadError("; ".join(measure.faults))
    return Syncs(calls, measure.count, None if flushes is None or after is None else after - flushes)


def _calls(seen: Path) -> int:
    return len(SYNCS.findall(seen.read_text()))


async def _flushes(target: Target) -> int:
    async with opened(target.port, Connection) as (connection,):
        text = (await connection.expect(request("GET", "/metrics"))).body.decode()
    found = FLUSHES.search(text)
    if found is None:
        raise LoadError("the server does not say how often it has flushed")
    return int(float(found[1]))
