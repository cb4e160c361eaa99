"""
Instructions and cycles of a process, counted by the processor while a load runs.

On a shared machine rates drift by half and these by a few percent. `perf stat` reads them where the machine has such
counters and lets us; elsewhere (most virtual machines, containers without the right) nothing is counted.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
from collections.abc import Mapping
from functools import cache

PROGRAM = "perf"
EVENTS = ("instructions", "cycles")
END_MAX_S = 5.0
"""perf ends within milliseconds of its signal."""


class Counters:
    """What a process executes, all of its threads, from now until `stop`; nothing without a process id."""

    def __init__(self, pid: int | None, events: tuple[str, ...] = EVENTS) -> None:
        self._perf: subprocess.Popen[str] | None = None
        if pid is not None and countable(events):
            command = [PROGRAM, "stat", "-x", ",", "-e", ",".join(events), "-p", str(pid)]
            self._perf = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def stop(self) -> Mapping[str, float]:
        """The counts by the name of the event; those that were not counted are left out."""
        if self._perf is None:
            return {}
        self._perf.send_signal(signal.SIGINT)
        try:
            _, said = self._perf.communicate(timeout=END_MAX_S)
        except subprocess.TimeoutExpired:
            self._perf.kill()
            _, said = self._perf.communicate()
        self._perf = None
        return counts_in(said)


@cache
def countable(events: tuple[str, ...] = EVENTS) -> bool:
    """Whether this machine counts all of these, and lets us see it."""
    if shutil.which(PROGRAM) is None:
        return False
    command = [PROGRAM, "stat", "-x", ",", "-e", ",".join(events), "true"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=END_MAX_S, check=False)
    except (OSError, subprocess.SubprocessError):
        return False
    return counts_in(answer.stderr).keys() == set(events)


def counts_in(said: str) -> Mapping[str, float]:
    """What `perf stat -x,` prints: a count, its unit and the event a line, and words where nothing was counted."""
    counts = {}
    for line in said.splitlines():
        fields = line.split(",")
        if len(fields) < 3:
            continue
        try:
            counts[fields[2].removesuffix(":u")] = float(fields[0])
        except ValueError:  # "<not supported>" and "<not counted>"
            continue
    return counts
