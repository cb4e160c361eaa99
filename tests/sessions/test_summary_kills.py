"""Servers that are killed around a summary for the model's context: it is asked for once more at most, and logged once."""

from __future__ import annotations

import http.client
from contextlib import suppress
from pathlib import Path

import pytest

from durable_chat.transcripts.context_summaries import CONTEXT_SUMMARY
from tests.servers import Process
from tests.sessions.lives import Lives
from tests.sessions.test_recovery import check_readers, read_log, say, until
from tests.transcripts.logs import Chunks, check_runs, fold, kinds

LONG = "word " * 100
"""A message of 170 tokens: the fourth one exceeds the limit."""

WRITING, BEFORE = {"DIE_IN": "summary"}, {"DIE_AT": CONTEXT_SUMMARY, "DIE": "before"}
AFTER, ANSWERING = {"DIE_AT": CONTEXT_SUMMARY}, {"DIE_AT": "Answer 4."}

POINTS = [
    pytest.param(WRITING, "end", 2, "", id="while it is written"),
    pytest.param(WRITING, "retry", 2, "Answer 4.", id="while it is written, anew"),
    pytest.param(WRITING, "continue", 2, "Answer 4.", id="while it is written, continued"),
    pytest.param(BEFORE, "retry", 2, "Answer 4.", id="before it is durable"),
    pytest.param(AFTER, "end", 1, "", id="once it is durable"),
    pytest.param(AFTER, "retry", 1, "Answer 4.", id="once it is durable, anew"),
    pytest.param(ANSWERING, "end", 1, "Answer 4.", id="in the answer after it"),
    pytest.param(ANSWERING, "retry", 1, "Answer 4.", id="in the answer after it, anew"),
    pytest.param(ANSWERING, "continue", 1, "Answer 4. Done.", id="in the answer after it, continued"),
]
"""Where the process dies, what the next one does, how often a summary is asked for, and the answer to the fourth message."""


class Summarizing(Lives):
    """Lives of the application in summarizing_dying.py."""

    app = "tests.sessions.summarizing_dying:app"

    def die(self, point: dict[str, str]) -> None:
        """Send four long messages to a process that dies in the answer to the last one."""
        process = self.start(**point)
        for number in (1, 2, 3):
            assert say(process, "s", f"{number}: {LONG}", f"u{number}", "&mode=await") == 200
        with suppress(OSError, http.client.HTTPException):
            say(process, "s", f"4: {LONG}", "u4", "&mode=await")
        assert process.wait() == -9

    @property
    def asked(self) -> list[str]:
        return self.lines("asked.txt")


@pytest.fixture
def server(tmp_path: Path, processes: list[Process]) -> Summarizing:
    return Summarizing(tmp_path / "app", processes)


def four_ended(chunks: Chunks) -> bool:
    return sum(kind in ("RUN_FINISHED", "RUN_ERROR") for kind in kinds(chunks)) == 4


def check(server: Summarizing, process: Process, summaries: int, answer: str) -> None:
    """The transcript is whole, and the next turn is answered with the only summary."""
    until(process, "s", four_ended)
    assert say(process, "s", "5: short", "u5", "&mode=await") == 200
    chunks = read_log(process, "s")
    assert len(check_runs(chunks)) == 5
    assert [chunk.get("name") for chunk in chunks].count(CONTEXT_SUMMARY) == 1
    assert server.asked.count("summary") == summaries
    assert server.asked[-1] == "answer with the summary"
    messages = fold(chunks)
    assert [message["id"] for message in messages if message["role"] == "user"] == ["u1", "u2", "u3", "u4", "u5"]
    texts = ["".join(part.get("content", "") for part in each["parts"]) for each in messages if each["role"] != "user"]
    assert texts == ["Answer 1.", "Answer 2.", "Answer 3.", answer, "Answer 5."]
    check_readers(process, "s", chunks)


@pytest.mark.parametrize(("point", "mode", "summaries", "answer"), POINTS)
def test_killed(server: Summarizing, point: dict[str, str], mode: str, summaries: int, answer: str) -> None:
    """No message is lost, a summary that was lost is written again, and one that is durable is not."""
    server.die(point)
    process = server.start(DURABLE_CHAT_AFTER_CRASH=mode)
    check(server, process, summaries, answer)


def test_killed_twice_after_it(server: Summarizing) -> None:
    """An answer that is given anew, and then once more, has the summary of the first attempt."""
    server.die(AFTER)
    process = server.launch(DURABLE_CHAT_AFTER_CRASH="retry", **ANSWERING)
    assert process.wait() == -9
    process = server.start(DURABLE_CHAT_AFTER_CRASH="retry")
    check(server, process, 1, "Answer 4.")


def test_killed_twice_while_it_is_written(server: Summarizing) -> None:
    """Each attempt asks for the summary that it needs, and the log has it once."""
    server.die(WRITING)
    process = server.launch(DURABLE_CHAT_AFTER_CRASH="retry", **WRITING)
    assert process.wait() == -9
    process = server.start(DURABLE_CHAT_AFTER_CRASH="retry")
    check(server, process, 3, "Answer 4.")
