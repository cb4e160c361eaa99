"""
What the scripts have in common that kill a server at random moments: the report, progress, and how they are called.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

Tell = Callable[[str], None]
"""Is given a line of progress."""


@dataclass(frozen=True, slots=True)
class Report:
    """What was found, by name. Each of `faults` must be 0. `figures` only say what happened."""

    faults: Mapping[str, int]
    figures: Mapping[str, int]

    @property
    def lines(self) -> list[str]:
        return [f"{name}: {count}" for name, count in {**self.figures, **self.faults}.items()]


class Prove(Protocol):
    def __call__(self, kills: int, seed: int, folder: Path, tell: Tell = ...) -> Report:
        """Kill a server so often, at moments that the seed decides. The folder is for the files of the servers."""
        ...


def silent(_line: str) -> None:
    """Nobody watches."""


def run(prove: Prove, about: str | None) -> None:
    """Run it as a command: print progress and the report. Exit with 1 if there is a fault."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=7)
    given = parser.parse_args()
    begun_s = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        report = prove(given.kills, given.seed, Path(folder), _tell)
    print(*report.lines, f"{given.kills} kills in {time.monotonic() - begun_s:.0f} s", sep="\n")  # noqa: T201 - the result
    if any(report.faults.values()):
        raise SystemExit(f"Repeat it with --kills {given.kills} --seed {given.seed}.")


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # noqa: T201 - the progress
