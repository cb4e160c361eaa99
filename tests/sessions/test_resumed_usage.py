"""The usage of an answer that went on after a crash is that of all its finished steps."""

from __future__ import annotations

import http.client
from contextlib import suppress

import pytest

from tests.sessions.test_waiting_after_crash import WAIT_MAX_S, Gated, ended, gated, post, until
from tests.transcripts.logs import check_runs

__all__ = ["gated"]


@pytest.mark.parametrize(
    ("limit", "code", "counts"), [("3", None, [0, 1, 2]), ("0", "interrupted", [0])], ids=["finished", "interrupted"]
)
def test_the_usage_of_steps_before_a_crash_counts(
    gated: Gated, limit: str, code: str | None, counts: list[int]
) -> None:
    """The end of the answer has the counts of each step, whether it goes on or ends."""
    gated.open("step0")
    process = gated.start(DIE_AT="waited for step0")
    with suppress(OSError, http.client.HTTPException):
        post(process, "step step")
    assert process.wait(WAIT_MAX_S) == -9
    gated.open("step1", "step step")
    process = gated.start(DURABLE_CHAT_RESUMES_MAX=limit)
    (end,) = check_runs(until(process, ended(1)))
    assert end.get("code") == code
    assert [entry["outputTokens"] for entry in end["usage"]] == counts
