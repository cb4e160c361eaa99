"""Every reader accepts any JSON in a log: nothing raises, and the result is a transcript."""

from __future__ import annotations

import asyncio
import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from durable_chat.api.bodies import parse_body
from durable_chat.api.catch_up import _are_short
from durable_chat.errors import InvalidRequest
from durable_chat.models.anthropic.files import with_files
from durable_chat.models.anthropic.messages import takes_thinking, to_anthropic, tools_named_in
from durable_chat.models.base import Turn
from durable_chat.models.demo import DemoModel
from durable_chat.sessions.recovering.dead_runs import LoggedRuns
from durable_chat.sessions.recovering.shared_log import _Watch
from durable_chat.sessions.running.open_runs import Held
from durable_chat.sessions.running.turns import PostedAsk, Stage
from durable_chat.sessions.running.waiting_chunks import queued_turn
from durable_chat.transcripts.codec import decode_chunks, decode_messages, encode_chunks
from durable_chat.transcripts.message_cache import encode
from durable_chat.transcripts.schemas import transcript_problem
from durable_chat.transcripts.tool_answers import answers_in
from durable_chat.transcripts.transcript import Transcript
from tests.transcripts.any_json import as_stored, logs, values

NEW = {"id": "new", "role": "user", "parts": [{"type": "text", "content": "think tool approve"}]}


def fold(chunks: Any) -> Transcript:
    transcript = Transcript()
    transcript.fold_all(chunks)
    return transcript


@given(log=logs)
@settings(max_examples=150, deadline=None)
def test_any_log_folds_to_a_transcript(log: list[Any]) -> None:
    """The messages keep the schema and can be sent. Folding step by step gives the same result as folding at once."""
    chunks = decode_chunks(as_stored(log))
    whole = fold(chunks)
    messages = whole.messages()
    assert transcript_problem(messages) is None
    json.loads(b"[" + b"".join(encode(messages).blocks) + b"]")
    _are_short(messages)
    halved = fold(chunks[: len(chunks) // 2])
    assert transcript_problem(halved.messages()) is None
    again = Transcript.from_bytes(halved.to_bytes())
    again.fold_all(chunks[len(chunks) // 2 :])
    assert again.messages() == messages
    assert again.active_runs == whole.active_runs


@given(log=logs)
@settings(max_examples=60, deadline=None)
def test_a_turn_can_be_taken_after_any_log(log: list[Any]) -> None:
    """A new message, a repeated one, and a body with the whole transcript are all accepted."""
    transcript = fold(decode_chunks(as_stored(log)))
    messages = [message for message in transcript.messages() if message["id"] != "new"]
    asked = [parse_body(json.dumps({"messages": [*history, NEW]}).encode()) for history in ([], messages)]
    for posted in asked:
        for waited in (False, True):
            opening = asyncio.run(PostedAsk(posted).open(transcript, Stage(0, waited, 65536)))
            after = fold(decode_chunks(as_stored(log)))
            after.fold_all(decode_chunks(b",".join(encode_chunks([*opening.chunks, *opening.results]))))
            assert transcript_problem(after.messages()) is None
            assert after.message("new") is not None


@given(log=logs)
@settings(max_examples=40, deadline=None)
def test_every_model_can_be_asked_after_any_log(log: list[Any]) -> None:
    """The messages are valid for the providers, and the demo model answers."""
    messages = (*fold(decode_chunks(as_stored(log))).messages(), NEW)
    turn = Turn(messages, "s", "r")
    conversation = to_anthropic(asyncio.run(with_files(turn)))
    assert [said["role"] for said in conversation][-1] == "user"
    tools_named_in(conversation)
    takes_thinking(conversation)

    async def said() -> list[Any]:
        return [chunk async for chunk in DemoModel(1, 0)(turn)]

    assert asyncio.run(said())


@given(log=logs)
@settings(max_examples=40, deadline=None)
def test_the_runs_of_any_log_can_be_ended(log: list[Any]) -> None:
    """Recovery, other processes and waiting turns can end the runs of any log."""
    data = as_stored(log)
    logged, watch = LoggedRuns("s"), _Watch((), ())
    for chunk in decode_chunks(data):
        logged.take(chunk)
        watch.take(chunk)
        turn = queued_turn(chunk)
        if turn is not None and turn[1] is not None:
            assert transcript_problem([turn[1]]) is None
    for run_id in [*logged.open, *logged.queued]:
        encode_chunks(logged.end(run_id))
    Held(None).release(decode_messages(data), "0_0")


@given(posted=st.lists(values | logs, max_size=3))
@settings(max_examples=60, deadline=None)
def test_any_body_is_taken_or_refused(posted: list[Any]) -> None:
    """A refusal is a client error with a sentence. An accepted body can be written."""
    flat = [message for listed in posted if isinstance(listed, list) for message in listed]
    for body in (posted, {"messages": posted}, {"messages": flat}):
        try:
            parsed = parse_body(json.dumps(body).encode())
        except InvalidRequest:
            continue
        opening = asyncio.run(PostedAsk(parsed).open(Transcript(), Stage(0, False, 65536)))
        encode_chunks([*opening.chunks, *opening.results])


@given(messages=st.lists(values, max_size=3))
@settings(max_examples=40, deadline=None)
def test_answers_are_looked_for_in_a_transcript(messages: list[Any]) -> None:
    """Any message of a transcript can be posted, and may answer calls."""
    log = [{"type": "MESSAGES_SNAPSHOT", "messages": messages}]
    answers_in(fold(decode_chunks(as_stored(log))).messages())


@given(lines=st.lists(values, max_size=4), count=st.integers(-1, 3))
@settings(max_examples=60, deadline=None)
def test_what_was_stored_and_is_damaged_is_refused(lines: list[Any], count: int) -> None:
    """A damaged stored transcript raises an expected error, and the log is folded instead."""
    state = json.loads(Transcript().to_bytes())
    stored = [{**state, "messages": count}, *lines]
    try:
        found = Transcript.from_bytes(b"\n".join(json.dumps(line).encode() for line in stored))
    except (ValueError, LookupError, TypeError, AttributeError):
        return
    assert transcript_problem(found.messages()) is None


@pytest.mark.parametrize("key", [*json.loads(Transcript().to_bytes())])
@given(value=values)
@settings(max_examples=15, deadline=None)
def test_a_damaged_state_is_refused(key: str, value: Any) -> None:
    """A damaged field of the stored state is refused too."""
    state = json.loads(Transcript().to_bytes()) | {key: value}
    try:
        found = Transcript.from_bytes(json.dumps(state).encode())
    except (ValueError, LookupError, TypeError, AttributeError):
        return
    found.fold_all([{"type": kind, "toolCallId": "c", "runId": "r"} for kind in ("RUN_STARTED", "TOOL_CALL_START")])
    found.fold({"type": "RUN_FINISHED", "runId": "r"})
    assert transcript_problem(found.messages()) is None


def test_a_long_message_that_is_no_chunk_is_not_decoded() -> None:
    """
    A long message without a type is not decoded, because hundreds of thousands of objects would block the event loop.
    """
    values = 200_000
    data = b'{"messages":[' + b",".join([b"{}"] * values) + b"]}"
    tracemalloc.start()
    try:
        assert decode_messages(data) == [None]
        assert tracemalloc.get_traced_memory()[1] < values * 64
    finally:
        tracemalloc.stop()
