"""What a load gives back, and the two ways in which it can go wrong."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.counters import Counters

now_s = time.perf_counter


class LoadError(Exception):
    """The server did not carry the load to its end: no answer in time, or the connection was cut."""


@dataclass(frozen=True, slots=True)
class Memory:
    """What a process has in memory now, and the most it had; in bytes, what the kernel keeps for sockets left out."""

    now_bytes: int
    peak_bytes: int

    def __add__(self, other: Memory) -> Memory:
        return Memory(self.now_bytes + other.now_bytes, self.peak_bytes + other.peak_bytes)


def memory_of(pid: int | str = "self") -> Memory:
    """Zeros where the system does not say (there is no /proc)."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return Memory(0, 0)
    found = dict(line.split(":", 1) for line in lines if ":" in line)
    now, peak = (int(found.get(name, "0 kB").split()[0]) * 1024 for name in ("VmRSS", "VmHWM"))
    return Memory(now, peak)


@dataclass(frozen=True, slots=True)
class Target:
    """
    A server under load. `cpu_s` gives the CPU time its process has used, `memory` what it has in memory; `ready_s` is
    how long it took from its start until it was ready, `name` that of the contender. What the process `pid` executes is
    counted where the machine allows it.
    """

    port: int
    cpu_s: Callable[[], float] = time.process_time
    memory: Callable[[], Memory] = memory_of
    ready_s: float = 0.0
    name: str = "ours"
    pid: int | None = None


@dataclass(frozen=True, slots=True)
class Measure:
    """
    One run of one load.

    `rate` is per second, in the unit of the load. `count` is how many units were counted in `seconds`.
    `notes` say where the server fell short of the load, `faults` which promise it broke: a figure with a
    fault is worth nothing. `more` are further figures of this load, each by its name with its unit. `counts` is what
    the server's process executed in that time, by event, where the machine counts it.
    """

    rate: float
    p50_ms: float
    p99_ms: float
    count: int
    seconds: float
    server_cpu_s: float
    generator_cpu_s: float
    others_cpu_s: float = 0.0  # of whatever else ran on this machine
    notes: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()
    more: Mapping[str, float] = field(default_factory=dict)
    counts: Mapping[str, float] = field(default_factory=dict)


def percentile(ordered: Sequence[float], share: float) -> float:
    """The value below which `share` of the ordered values lie; 0 where there is none."""
    if not ordered:
        return 0.0
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def all_cpu_s() -> float:
    """CPU time that all programs of this machine have used; 0 where the system does not say (there is no /proc)."""
    try:
        fields = Path("/proc/stat").read_text().partition("\n")[0].split()
    except OSError:
        return 0.0
    user, nice, system = map(int, fields[1:4])
    return (user + nice + system) / os.sysconf("SC_CLK_TCK")


class Stopwatch:
    """
    Wall and CPU time since it was made, and what the server executed.
    """

    def __init__(self, target: Target) -> None:
        self._target = target
        self._counters = Counters(target.pid)
        self._cpu_s = target.cpu_s()
        self._generator_cpu_s = time.process_time()
        self._all_cpu_s = all_cpu_s()
        self._start_s = now_s()

    def measure(
        self,
        end_s: float,
        count: int,
        latencies_s: Sequence[float],
        units: float | None = None,
    ) -> Measure:
        """
        The span from the making of this watch to `end_s`; call it right after the load's end.

        `units` is what the rate is made of, where that is not the count.
        """
        seconds = max(end_s - self._start_s, 1e-9)
        ordered = sorted(latencies_s)
        server_cpu_s = self._target.cpu_s() - self._cpu_s
        generator_cpu_s = time.process_time() - self._generator_cpu_s
        others_cpu_s = all_cpu_s() - self._all_cpu_s - server_cpu_s - generator_cpu_s
        counts = self._counters.stop()
        return Measure(
            rate=(count if units is None else units) / seconds,
            p50_ms=percentile(ordered, 0.50) * 1000,
            p99_ms=percentile(ordered, 0.99) * 1000,
            count=count,
            seconds=seconds,
            server_cpu_s=server_cpu_s,
            generator_cpu_s=generator_cpu_s,
            others_cpu_s=max(0.0, others_cpu_s),
            counts=counts,
        )


@contextmanager
def undisturbed() -> Iterator[None]:
    """Keep the generator's own garbage collector out of the latencies it measures."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
