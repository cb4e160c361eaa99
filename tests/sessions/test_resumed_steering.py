"""Steering an answer that goes on after a crash: it hears messages as one that never died."""

from __future__ import annotations

import http.client
from contextlib import suppress

import pytest

from tests.servers import Process
from tests.sessions.test_recovery import check_readers
from tests.sessions.test_waiting_after_crash import (
    CONTINUE,
    MODES,
    RETRY,
    WAIT_MAX_S,
    Gated,
    ended,
    gated,
    post,
    says,
    shown,
    until,
    wait_for,
)
from tests.transcripts.logs import Chunks, check_runs

__all__ = ["gated"]

STEPS = [("user", "step step"), ("assistant", ""), ("assistant", "")]
HEARD = [*STEPS, ("user", "now"), ("assistant", "About now: done.")]


def check_heard(gated: Gated, process: Process, chunks: Chunks) -> None:
    """Check that the model heard the message at its next step, and that the transcript shows it there."""
    assert [end["type"] for end in check_runs(chunks)] == ["RUN_FINISHED"] * 2
    assert shown(chunks) == HEARD
    assert gated.asked[-1] == ["step step", "now"]
    assert gated.answered("now") == 1
    check_readers(process, "s", chunks)


@pytest.mark.parametrize("mode", [{}, RETRY, CONTINUE], ids=["end", "retry", "continue"])
def test_a_resumed_answer_hears(gated: Gated, mode: dict[str, str]) -> None:
    """A message that is sent while a resumed answer executes a tool is given to the model at its next step."""
    gated.open("step0")
    process = gated.start(DIE_AT="waited for step0")
    with suppress(OSError, http.client.HTTPException):
        post(process, "step step")
    assert process.wait(WAIT_MAX_S) == -9
    process = gated.start(**mode)
    wait_for(lambda: gated.lines("calls.txt") == ["step0", "step1"], "the second call runs")
    assert post(process, "now", "&turns=steer") == 202
    gated.open("step1", "now")
    check_heard(gated, process, until(process, ended(2)))


@MODES
def test_a_resumed_answer_hears_what_was_sent_before_the_crash(gated: Gated, mode: dict[str, str]) -> None:
    """A message that waited to be heard when the server died is heard at the next step."""
    gated.open("step0")
    process = gated.start()
    assert post(process, "step step") == 202
    wait_for(lambda: gated.lines("calls.txt") == ["step0", "step1"], "the second call runs")
    assert post(process, "now", "&turns=steer") == 202
    process.kill()
    gated.open("now")
    process = gated.start(**mode)
    check_heard(gated, process, until(process, ended(2)))


def test_the_answer_dies_again_after_it_heard(gated: Gated) -> None:
    """The run of the message goes on from the results of the answer that heard it."""
    gated.open("step0")
    process = gated.start(DIE_AT="waited for step0")
    with suppress(OSError, http.client.HTTPException):
        post(process, "step step")
    assert process.wait(WAIT_MAX_S) == -9
    process = gated.start()
    wait_for(lambda: gated.lines("calls.txt") == ["step0", "step1"], "the second call runs")
    assert post(process, "now", "&turns=steer") == 202
    gated.open("step1")
    until(process, says("About now: "))
    process.kill()
    gated.open("now")
    process = gated.start(**CONTINUE)
    chunks = until(process, ended(2))
    check_runs(chunks)
    assert shown(chunks) == HEARD
    assert gated.lines("calls.txt") == ["step0", "step1"]
    check_readers(process, "s", chunks)
