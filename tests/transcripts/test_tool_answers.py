"""Answers in the transcript, as every client folds them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from durable_chat.transcripts.chunks import messages_snapshot, run_finished, run_started, text_start, tool_result
from durable_chat.transcripts.tool_answers import Answer, accepted, give_answers
from tests.sessions.test_turns import HI, asking, assistant, said, transcript, user
from tests.transcripts.folding import Folder, compare, node_folder


@pytest.fixture(scope="module")
def folder() -> Iterator[Folder]:
    with node_folder() as running:
        yield running


def test_calls_of_two_messages_approved_together(folder: Folder) -> None:
    """Each call stays in its own message once, in every client."""
    known = transcript(
        HI,
        assistant(said("May I?"), asking("c1")),
        user("more", "u2"),
        assistant(said("And?"), asking("c2"), asking("c3"), message_id="a2"),
    )
    answers = [accepted(known, Answer(call_id, True), ()) for call_id in ("c1", "c2", "c3")]
    given = give_answers(known, [answer for answer in answers if answer is not None], 5)
    log: list[dict[str, Any]] = [
        messages_snapshot(given.messages, timestamp=5),
        run_started("r", "s", timestamp=5),
        *given.chunks,
        *(tool_result(f"t-{call_id}", call_id, "ok", timestamp=6, error=False) for call_id in ("c2", "c3", "c1")),
        text_start("a3", timestamp=7),
        {"type": "TEXT_MESSAGE_CONTENT", "messageId": "a3", "delta": "Done."},
        {"type": "TEXT_MESSAGE_END", "messageId": "a3"},
        run_finished("r", "s", timestamp=8, finish_reason="stop"),
    ]
    shown = [
        (message["id"], [(part.get("id") or part.get("toolCallId") or part["content"]) for part in message["parts"]])
        for message in compare(folder, log)
    ]
    assert shown == [
        ("u1", ["hi"]),
        ("a1", ["May I?", "c1", "c1"]),
        ("u2", ["more"]),
        ("a2", ["And?", "c2", "c3", "c2", "c3"]),
        ("a3", ["Done."]),
    ]
