"""The state machine for as long as one likes: `scripts/machine --examples 200 --seed 7`."""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from hypothesis import HealthCheck, Phase, Verbosity, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.sessions.machine.machines import SessionMachine
from tests.sessions.machine.worlds import living

STEPS = 40


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="scripts/machine", description=__doc__)
    parser.add_argument("--examples", type=int, default=100, help="how many sessions are led through their lives")
    parser.add_argument("--steps", type=int, default=STEPS, help="how much is done to each of them, at most")
    parser.add_argument("--seed", type=int, default=1, help="the same seed does the same things")
    parser.add_argument("--shrink", action="store_true", help="look for the shortest way to what fails: minutes")
    parser.add_argument("--verbose", action="store_true", help="show what is done")
    options = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the server does not outlive it
    chosen = settings(
        max_examples=options.examples,
        stateful_step_count=options.steps,
        deadline=None,
        database=None,
        phases=(Phase.generate, Phase.shrink) if options.shrink else (Phase.generate,),
        verbosity=Verbosity.verbose if options.verbose else Verbosity.normal,
        suppress_health_check=list(HealthCheck),
    )
    started_s = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, living(Path(folder)) as SessionMachine.world:
        run_state_machine_as_test(seed(options.seed)(SessionMachine), settings=chosen)
    print(
        f"{options.examples} examples of up to {options.steps} steps in {time.monotonic() - started_s:.0f} s: all right"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
