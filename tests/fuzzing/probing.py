"""
A process that requests /healthz all the time and records every wait. It subtracts the time that the machine gave to
other processes: Linux counts how long a runnable thread waited for a processor.
"""

from __future__ import annotations

import http.client
import json
import select
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

PAUSE_S = 0.004
NOTED_S = 0.02
"""Shorter waits are not told."""


@dataclass(frozen=True, slots=True)
class Stall:
    """
    One wait for /healthz. `own_s` is the server's part of it: the wait without the time in which the server or this
    process had no processor, and at most the processor time that the server used meanwhile.
    """

    at_s: float
    wait_s: float
    own_s: float


def queued_s(pid: int | str) -> float:
    """
    Return how long a process's first thread has waited for a processor in total, or 0 if the system does not count
    it.
    """
    try:
        return int(Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0


def used_s(pid: int) -> float:
    """Return the processor time that a process has used: the clock that `clock_getcpuclockid` names on Linux."""
    try:
        return time.clock_gettime((~pid << 3) | 2)
    except OSError:  # the process has ended
        return 0.0


def probe(port: int, pid: int) -> None:
    """Probe until standard input ends, then print the stalls as JSON."""
    me = Path("/proc/self").resolve().name
    stalls: list[Stall] = []
    probes = 0
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    while not select.select([sys.stdin], [], [], PAUSE_S)[0]:
        started_s, queued, used = time.monotonic(), queued_s(pid) + queued_s(me), used_s(pid)
        try:
            connection.request("GET", "/healthz")
            answer = connection.getresponse()
            answer.read()
        except (OSError, http.client.HTTPException):
            connection.close()
            continue
        probes += 1
        wait_s = time.monotonic() - started_s
        if wait_s > NOTED_S:
            own_s = min(max(0.0, wait_s - (queued_s(pid) + queued_s(me) - queued)), used_s(pid) - used)
            stalls.append(Stall(started_s, wait_s, own_s))
    json.dump({"probes": probes, "stalls": [asdict(stall) for stall in stalls]}, sys.stdout)


if __name__ == "__main__":
    probe(int(sys.argv[1]), int(sys.argv[2]))
