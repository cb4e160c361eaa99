"""Anything people, tabs and clients do to a session, in any order, and a server that dies of it and comes back."""

from __future__ import annotations

from pathlib import Path

from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.sessions.machine.machines import SessionMachine
from tests.sessions.machine.worlds import living

GATE = settings(
    max_examples=14,
    stateful_step_count=30,
    deadline=None,
    database=None,
    derandomize=True,
    # What fails is shown as it is: shrinking would start the server many hundred times. scripts/machine does it.
    phases=(Phase.generate,),
)


def test_any_session(tmp_path: Path) -> None:
    """The same story for every reader, one end for each run, and one question to the model for each request."""
    with living(tmp_path) as SessionMachine.world:
        run_state_machine_as_test(SessionMachine, settings=GATE)
