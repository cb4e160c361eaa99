"""
A process that asks /healthz all the time and notes every wait. What the machine gave to others meanwhile is told apart:
Linux counts how long a thread that could run was kept waiting for a processor.
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
    A wait for /healthz. `own_s` is what the server had to do with it: the wait without the time in which it, or this
    process, had no processor, and no more than it has used of processors meanwhile.
    """

    at_s: float
    wait_s: float
    own_s: float


def queued_s(pid: int | str) -> float:
    """How long the first thread of a process has waited for a processor in its life; 0 where nobody counts that."""
    try:
        return int(Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0


def used_s(pid: int) -> float:
    """The processor time of a process so far: the clock that `clock_getcpuclockid` names on Linux."""
    try:
        return time.clock_gettime((~pid << 3) | 2)
    except OSError:  # it has ended
        return 0.0


def probe(port: int, pid: int) -> None:
    """Until standard input ends. Prints the stalls as JSON."""
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
