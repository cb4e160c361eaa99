"""Answers with tools that go on after their process died."""

from __future__ import annotations

import http.client
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.servers import Process
from tests.sessions.lives import Lives
from tests.sessions.test_recovery import check_readers, say, until
from tests.transcripts.logs import Chunks, check_runs, fold, has_ended


class Stepping(Lives):
    """Lives of the application in stepping.py."""

    app = "tests.sessions.stepping:chat.app"

    @property
    def calls(self) -> list[str]:
        return self.lines("calls.txt")


@pytest.fixture
def stepping(tmp_path: Path, processes: list[Process]) -> Stepping:
    return Stepping(tmp_path / "stepping", processes)


def die(stepping: Stepping, text: str, **settings: str) -> None:
    """Send a turn to a process that dies during it."""
    process = stepping.start(**settings)
    with pytest.raises((OSError, http.client.HTTPException)):
        assert say(process, "s", text, query="&mode=await") == 0
    assert process.wait() == -9


def resumed(chunks: Chunks) -> list[dict[str, Any]]:
    return [chunk["value"] for chunk in chunks if chunk.get("name") == "durable-chat.run-resumed"]


def finish(stepping: Stepping, **settings: str) -> tuple[Process, Chunks]:
    process = stepping.start(**settings)
    chunks = until(process, "s", has_ended)
    check_readers(process, "s", chunks)
    return process, chunks


def text_of(chunks: Chunks) -> str:
    parts = (part for message in fold(chunks) if message["role"] == "assistant" for part in message["parts"])
    return "".join(part["content"] for part in parts if part["type"] == "text")


CONTINUE, RETRY = {"DURABLE_CHAT_AFTER_CRASH": "continue"}, {"DURABLE_CHAT_AFTER_CRASH": "retry"}
WHOLE = "Step 0. Step 1. Step 2. word0 word1 word2 "


def test_an_answer_goes_on_after_its_last_step(stepping: Stepping) -> None:
    """After a kill between two steps, finished calls are not executed again and the run has one end."""
    die(stepping, "look order", DIE_AT="saw thing0")
    _, chunks = finish(stepping)
    (end,) = check_runs(chunks)
    assert end["type"] == "RUN_FINISHED"
    assert Counter(call.split()[0] for call in stepping.calls) == {"look": 1, "order": 1}
    assert text_of(chunks) == WHOLE, chunks
    assert resumed(chunks) == [{"runId": end["runId"], "attempt": 1, "how": "resume"}]


# Where the process dies, in what mode the next one starts; how often `look` and `order` run, and how the run goes on.
POINTS = {
    "amid the first text": ("Step ", "after", "", CONTINUE, (1, 1), "continue"),
    "amid the first text, anew": ("Step ", "after", "", RETRY, (1, 1), "retry"),
    "before a call": ("TOOL_CALL_START", "before", "", CONTINUE, (1, 1), "continue"),
    "in the arguments of a call": ("TOOL_CALL_ARGS", "after", "", {}, (0, 1), "resume"),
    "before a call is executed": ("TOOL_CALL_END", "after", "", {}, (0, 1), "resume"),
    "in a call": ("", "", "look", {}, (1, 1), "resume"),
    "in an idempotent call": ("", "", "order", {}, (1, 2), "resume"),
    "before a result": ("saw thing0", "before", "", {}, (1, 1), "resume"),
    "after a result": ("saw thing0", "after", "", {}, (1, 1), "resume"),
    "before an idempotent result": ("ordered thing1", "before", "", {}, (1, 2), "resume"),
    "after the last result": ("ordered thing1", "after", "", {}, (1, 1), "resume"),
    "amid the last text": ("word1 ", "after", "", CONTINUE, (1, 1), "continue"),
    "amid the last text, anew": ("word1 ", "after", "", RETRY, (1, 1), "retry"),
    "before the end": ("RUN_FINISHED", "before", "", CONTINUE, (1, 1), "continue"),
}


@pytest.mark.parametrize("point", POINTS)
def test_an_answer_goes_on_wherever_the_process_died(stepping: Stepping, point: str) -> None:
    """
    Finished calls are not executed again, an idempotent call has the same key, the text is there once, and the run has
    one end.
    """
    die_at, when, tool, settings, (looks, orders), how = POINTS[point]
    die(stepping, "look order", DIE_AT=die_at, DIE=when, DIE_IN=tool)
    _, chunks = finish(stepping, **settings)
    (end,) = check_runs(chunks)
    assert end["type"] == "RUN_FINISHED"
    assert text_of(chunks) == WHOLE, chunks
    ran = Counter(call.split()[0] for call in stepping.calls)
    assert (ran["look"], ran["order"]) == (looks, orders)
    keys = {call.split()[2] for call in stepping.calls if call.startswith("order")}
    assert len(keys) == 1
    assert resumed(chunks)[0] == {"runId": end["runId"], "attempt": 1, "how": how} | (
        {"kept": resumed(chunks)[0]["kept"]} if how == "retry" else {}
    )
    calls = [part for message in fold(chunks) for part in message["parts"] if part["type"] == "tool-result"]
    assert len(calls) == 2, "each call has one result"


def test_random_kills(tmp_path: Path) -> None:
    """Whenever a server dies, no finished call is executed again, every run has one end, and texts are complete."""
    from tests.sessions.crash_steps import prove

    report = prove(4, seed=11, folder=tmp_path)
    assert report.figures["answers"] == 4
    assert not any(report.faults.values()), report.lines
