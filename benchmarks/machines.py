"""What the figures depend on: processor, system, file system, and what a flush to this disk costs."""

from __future__ import annotations

import os
import platform
import tempfile
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measures import now_s, percentile

ROOT = Path(__file__).parent.parent
# File systems that live in memory: an fsync there costs nothing and proves nothing.
IN_MEMORY = {"tmpfs", "ramfs"}
FLUSHES = 300
FLUSH_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Machine:
    processor: str
    cpus: int
    system: str
    file_system: str
    load_average: float  # of the last minute before the benchmark: what else is at work here
    fdatasync_p50_ms: float
    fdatasync_p99_ms: float


def describe(folder: Path) -> Machine:
    """The machine, and the disk that `folder` is on."""
    flushes = sorted(_flushes_s(folder))
    return Machine(
        processor=_processor(),
        cpus=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        system=f"{platform.system()} {platform.release()}",
        file_system=file_system(folder),
        load_average=os.getloadavg()[0],
        fdatasync_p50_ms=percentile(flushes, 0.50) * 1000,
        fdatasync_p99_ms=percentile(flushes, 0.99) * 1000,
    )


def data_folder() -> Path:
    """Where the servers keep their data: the folder for temporary files, unless that is in memory."""
    temporary = Path(tempfile.gettempdir())
    if file_system(temporary) not in IN_MEMORY:
        return temporary
    folder = ROOT / ".bench"
    folder.mkdir(exist_ok=True)
    return folder


def file_system(folder: Path) -> str:
    """The type of the file system a folder is on, as the mount table of Linux names it."""
    try:
        mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    except OSError:
        return "unknown"
    above = {str(parent) for parent in (folder.resolve(), *folder.resolve().parents)}
    points = [(len(point), kind) for _, point, kind, *_ in mounts if point in above]
    # The longest wins; of two at one point the one mounted last.
    return max(reversed(points), key=lambda found: found[0])[1] if points else "unknown"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _flushes_s(folder: Path) -> list[float]:
    """Seconds that an appended page takes to be on disk, a few hundred times."""
    flush = getattr(os, "fdatasync", os.fsync)
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        spent = []
        for _ in range(FLUSHES):
            file.write(bytes(FLUSH_BYTES))
            start_s = now_s()
            flush(file.fileno())
            spent.append(now_s() - start_s)
    return spent
