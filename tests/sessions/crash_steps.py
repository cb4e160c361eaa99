"""
Kills a server at random moments of answers with tools, and checks that every answer goes on to its end.

Run it as `python -m tests.sessions.crash_steps --kills 50 --seed 7`. Each round sends a turn and kills the server. The last
process finishes all of them. It prints, and fails on: calls of a tool that is not idempotent executed twice, runs without
exactly one end, and texts that are incomplete or doubled.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.servers import Process
from tests.sessions.test_recovery import read_log, say, until
from tests.sessions.test_resuming_steps import WHOLE, Stepping, ends, text_of
from tests.transcripts.logs import check_runs

SETTINGS = {"DURABLE_CHAT_AFTER_CRASH": "continue", "DURABLE_CHAT_RESUMES_MAX": "100", "TEXT_DELAY_S": "0.03"}
# The longest wait before a kill. An answer takes about half of it.
WAIT_MAX_S = 1.0


def prove(kills: int, seed: int, folder: Path) -> dict[str, int]:
    """Return what was found, by name. All but the number of answers must be 0."""
    chosen = random.Random(seed)
    processes: list[Process] = []
    stepping = Stepping(folder, processes)
    process = stepping.start(**SETTINGS)
    try:
        for number in range(kills):
            assert say(process, f"s{number}", "look order") == 202
            time.sleep(chosen.uniform(0, WAIT_MAX_S))
            process.kill()
            process = stepping.start(**SETTINGS)
        return _found(process, stepping, kills)
    finally:
        for each in processes:
            each.kill()


def _found(process: Process, stepping: Stepping, answers: int) -> dict[str, int]:
    doubled = wrong = unended = 0
    for number in range(answers):
        until(process, f"s{number}", ends)
        chunks = read_log(process, f"s{number}")
        unended += len(check_runs(chunks)) != 1
        wrong += text_of(chunks) != WHOLE
    keys = Counter(call.split()[2] for call in stepping.calls if call.startswith("look"))
    doubled = sum(count > 1 for count in keys.values())
    return {"answers": answers, "calls executed twice": doubled, "runs without one end": unended, "wrong texts": wrong}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=7)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = prove(given.kills, given.seed, Path(folder) / "steps")
    print(*(f"{name}: {count}" for name, count in found.items()), sep="\n")  # noqa: T201 - the result
    raise SystemExit(any(count for name, count in found.items() if name != "answers"))


if __name__ == "__main__":
    main()
