"""The summary for the model's context as a part of the log: when it holds, and that a fold keeps it."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from durable_chat.transcripts.answers.normalization import RunChunks
from durable_chat.transcripts.chunks import messages_snapshot, to_message_echo_chunks
from durable_chat.transcripts.context_summaries import CONTEXT_SUMMARY, Context, ContextSummary, Counted
from durable_chat.transcripts.transcript import Transcript
from tests.transcripts.test_transcript import ANSWERS

SUMMARY = ContextSummary("a1", "They greeted each other.", 900, 100, "m")


def said(message_id: str, role: str, content: str) -> dict[str, Any]:
    return {"id": message_id, "role": role, "metadata": {}, "parts": [{"type": "text", "content": content}]}


def greeting() -> Transcript:
    """Two turns, the first of them summarized."""
    log = Transcript()
    for number in (1, 2):
        log.fold_all(to_message_echo_chunks(said(f"u{number}", "user", f"hello {number}"), timestamp=1))
        run = RunChunks(f"r{number}", "s", lambda number=number: f"a{number}", lambda: 1)  # type: ignore[misc]
        counts = [{"inputTokens": 5, "outputTokens": 2}, {"inputTokens": 50, "outputTokens": 3}]
        log.fold_all([*run.start(), *run.accept("Good morning.")])
        if number == 2:
            log.fold(SUMMARY.chunk())
        log.fold_all(run.accept({"type": "RUN_FINISHED", "usage": counts}))
    return log


def test_the_log_keeps_the_summary_and_the_count() -> None:
    """The last call's tokens count; a stored transcript has both."""
    log = greeting()
    assert log.context == Context(SUMMARY, Counted("a2", 53))
    assert log.copy().context == log.context
    assert [message["id"] for message in log.messages()] == ["u1", "a1", "u2", "a2"]


def test_a_new_summary_ends_the_count_of_the_longer_context() -> None:
    log = greeting()
    log.fold(SUMMARY.chunk())
    assert log.context == Context(SUMMARY)


@pytest.mark.parametrize(
    ("change", "holds"),
    [
        (lambda messages: [*messages, said("u3", "user", "more")], True),
        (lambda messages: messages[:3], True),  # the second answer is regenerated
        (lambda messages: messages[:2], True),
        (lambda messages: messages[:1], False),  # the first answer is regenerated
        (lambda messages: [said("u1", "user", "hi")], False),  # an edit
        (lambda messages: [said("u1", "user", "hi"), *messages[1:]], False),  # an import or a foreign writer
        (lambda messages: [], False),
        (lambda messages: [said("other", "user", "hello 1"), *messages[1:]], False),
    ],
)
@pytest.mark.parametrize("apart", [False, True])
async def test_a_snapshot_that_changes_what_is_summarized_ends_it(change: Any, holds: bool, apart: bool) -> None:
    """It holds as long as the messages that it replaces are there, unchanged, whether folded at once or in a thread."""
    log = greeting()
    snapshot = messages_snapshot(change(log.messages()), timestamp=1)
    if apart:
        await log.fold_apart(snapshot)
    else:
        log.fold(snapshot)
    assert log.context.summary == (SUMMARY if holds else None)


@given(names=st.lists(st.sampled_from(sorted(ANSWERS)), min_size=1, max_size=5), snapshot=st.booleans())
@settings(max_examples=150, deadline=None)
def test_the_turns_own_snapshots_keep_it(names: list[str], snapshot: bool) -> None:
    """A snapshot that begins a turn changes nothing that is shown, so the summary stays in force after any answers."""
    transcript = Transcript()
    for number, name in enumerate(names):
        ids = iter(range(1000))
        make = partial(lambda ids, at: f"m-{at}-{next(ids)}", ids, number)
        run = RunChunks(f"r{number}", "s", make, lambda: 1, known_ids=transcript, known_calls=transcript.call_ids)
        for item in ANSWERS[name]:
            transcript.fold_all(run.accept(item))
        transcript.fold_all(run.finish())
        if snapshot:
            transcript.fold(messages_snapshot(transcript.messages(), timestamp=1))
    if transcript.last_id is None:
        return
    transcript.fold(ContextSummary(transcript.last_id, "text", 2, 1, "m").chunk())
    before = transcript.messages()
    transcript.fold(messages_snapshot(before, timestamp=1))
    assert transcript.context.summary is not None


@given(
    value=st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: (
            st.lists(inner) | st.dictionaries(st.sampled_from(["text", "tokensBefore", "tokensAfter", "model"]), inner)
        ),
    )
)
def test_anything_may_be_in_the_log(value: Any) -> None:
    """A value that is no summary changes nothing."""
    log = greeting()
    log.fold({"type": "CUSTOM", "name": CONTEXT_SUMMARY, "value": value})
    assert log.context.summary == SUMMARY
