"""
What people and their browsers answer to tool calls: found in posted messages, and put into the transcript.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from durable_chat.transcripts import chunks
from durable_chat.transcripts.chunks import Chunk, InvalidChunk
from durable_chat.transcripts.transcript import Transcript

DENIED_RESULT = '{"error":"The person did not approve this call."}'

_WHOLE_INPUT = frozenset({"input-complete", "approval-responded"})


@dataclass(frozen=True, slots=True)
class Answer:
    """To one tool call: whether it was approved, or what it gave (`content`, text or JSON in a string)."""

    call_id: str
    approved: bool | None = None
    content: str | None = None
    failed: bool = False


def answers_in(messages: Iterable[Mapping[str, Any]]) -> tuple[Answer, ...]:
    """What posted messages answer, one for each call: UIMessages with parts, or AG-UI's rows of the role `tool`."""
    found: dict[str, Answer] = {}
    for message in messages:
        for answer in _row_answers(message) if message.get("role") == "tool" else _part_answers(message):
            found.setdefault(answer.call_id, answer)
    return tuple(found.values())


def _part_answers(message: Mapping[str, Any]) -> Iterable[Answer]:
    parts = message.get("parts")
    parts = [part for part in parts if isinstance(part, Mapping)] if isinstance(parts, list) else []
    results = {part.get("toolCallId"): part for part in parts if part.get("type") == "tool-result"}
    for part in parts:
        if part.get("type") != "tool-call" or not chunks.is_id(part.get("id")):
            continue
        approval = part.get("approval")
        approved = approval.get("approved") if isinstance(approval, Mapping) else None
        result = results.get(part["id"])
        approved = approved if isinstance(approved, bool) else None
        content, failed = _output_of(part, result)
        if approved is not None or content is not None:
            yield Answer(part["id"], approved, content, failed)


def _output_of(call: Mapping[str, Any], result: Mapping[str, Any] | None) -> tuple[str | None, bool]:
    """What a client's tool gave, and whether it failed: newer clients add a result, older ones only an output."""
    if result is not None:
        if result.get("state") == "error":
            error = result.get("error")
            return _json({"error": error if isinstance(error, str) and error else "The tool failed."}), True
        content = result.get("content")
        return (content if isinstance(content, str) else _json(content)), False
    output = call.get("output")
    if output is None:
        return None, False
    return _json(output), call.get("state") == "error"


def _row_answers(row: Mapping[str, Any]) -> Iterable[Answer]:
    call_id, content = row.get("toolCallId"), row.get("content")
    if not chunks.is_id(call_id) or not isinstance(call_id, str) or not isinstance(content, str):
        return
    try:
        value = chunks.decode_json(content)
    except InvalidChunk:
        value = None
    approved = value.get("approved") if isinstance(value, Mapping) else None
    yield Answer(call_id, approved if isinstance(approved, bool) else None, content, bool(row.get("error")))


def _json(value: Any) -> str:
    return chunks.encode_json(value).decode()


def call_of(message: Mapping[str, Any], call_id: str) -> Mapping[str, Any] | None:
    """The part of a tool call."""
    calls = (part for part in message["parts"] if part.get("type") == "tool-call")
    return next((part for part in calls if part.get("id") == call_id), None)


def is_settled(call: Mapping[str, Any]) -> bool:
    """Whether a call itself says what it gave."""
    return call.get("output") is not None or call.get("state") in ("complete", "error")


def _results_in(message: Mapping[str, Any]) -> frozenset[str]:
    """The calls whose results are in the message."""
    return frozenset(part["toolCallId"] for part in message["parts"] if part.get("type") == "tool-result")


def asks_approval(call: Mapping[str, Any]) -> bool:
    """Whether a call waits for a person's word."""
    approval = call.get("approval")
    return isinstance(approval, Mapping) and not isinstance(approval.get("approved"), bool)


def accepted(transcript: Transcript, answer: Answer, server_tools: Container[str]) -> Answer | None:
    """
    What of an answer is news to the log: the first one to each call counts. A call that asks for approval takes nothing
    else, and what a tool of the server gives is not a client's to say.
    """
    call, result = transcript.asked(answer.call_id) or (None, None)
    if call is None or result is not None or is_settled(call):
        return None
    if asks_approval(call):
        return None if answer.approved is None else Answer(answer.call_id, answer.approved)
    if answer.content is None or call.get("name") in server_tools or call.get("state") not in _WHOLE_INPUT:
        return None
    return Answer(answer.call_id, None, answer.content, answer.failed)


def _has_open(message: Mapping[str, Any], but: Container[str]) -> bool:
    """Whether any call but these still waits for a client: for a word, or for what the client's tool gives."""
    results = _results_in(message)
    calls = (part for part in message["parts"] if part.get("type") == "tool-call" and part["id"] not in but)
    waiting = (call for call in calls if call["id"] not in results and not is_settled(call))
    return any(asks_approval(call) or call.get("state") == "input-complete" for call in waiting)


@dataclass(frozen=True, slots=True)
class Answered:
    """
    Answers put into the transcript's messages: all of them; the chunks to write once the run has started (the calls to
    be carried out, again, since older clients have forgotten them after the snapshot, and the results of the others);
    the calls that were approved and are now to be carried out; whether a call beside them still waits; whether all of
    them are `late`: a person has written on after the messages of their calls.
    """

    messages: list[dict[str, Any]]
    chunks: tuple[Chunk, ...]
    approved: tuple[str, ...]
    waits: bool
    late: bool


def give_answers(transcript: Transcript, answers: Sequence[Answer], now_ms: int) -> Answered:
    """The answers have been accepted. Folded as their results are, so that the snapshot and the results agree."""
    results = {answer.call_id: made for answer in answers if (made := _result(answer, now_ms)) is not None}
    approvals = {answer.call_id: answer.approved for answer in answers if answer.approved is not None}
    touched = {answer.call_id for answer in answers}
    messages: list[dict[str, Any]] = []
    again: list[Chunk] = []
    waits, late = False, True
    shown = transcript.messages()
    asked_at = max((at for at, message in enumerate(shown) if message.get("role") == "user"), default=-1)
    for at, message in enumerate(shown):
        calls = [part for part in message["parts"] if part.get("type") == "tool-call"]
        if any(call.get("id") in touched for call in calls):
            own = dict.fromkeys(call["id"] for call in calls if call["id"] in results)
            message = with_results(_with_approvals(message, approvals), [results[call_id] for call_id in own])
            if at > asked_at:
                late = False
                waits = waits or _has_open(message, touched)
            begun = [chunk for call in calls if approvals.get(call["id"]) for chunk in _again(message, call, now_ms)]
            again += _in_message(message, begun, now_ms) if again and begun else begun
        messages.append(message)
    approved = tuple(call_id for call_id, yes in approvals.items() if yes)
    return Answered(messages, (*again, *results.values()), approved, waits, late)


def _again(message: Mapping[str, Any], call: Mapping[str, Any], now_ms: int) -> Iterable[Chunk]:
    """A call that is carried out in another run than it was made in; it looks the same afterwards."""
    named = {"toolCallId": call["id"], "timestamp": now_ms}
    yield {"type": "TOOL_CALL_START", **named, "toolCallName": call.get("name"), "parentMessageId": message["id"]}
    if call.get("arguments"):
        yield {"type": "TOOL_CALL_ARGS", **named, "delta": call["arguments"]}
    yield {"type": "TOOL_CALL_END", **named}


def _in_message(message: Mapping[str, Any], begun: Sequence[Chunk], now_ms: int) -> Sequence[Chunk]:
    """After calls of another message clients have to be told whose these are: they would hang them on that one."""
    named = {"messageId": message["id"], "timestamp": now_ms}
    start = {"type": "TEXT_MESSAGE_START", **named, "role": "assistant"}
    return [start, *begun, {"type": "TEXT_MESSAGE_END", **named}]


def with_results(message: dict[str, Any], results: Iterable[Chunk]) -> dict[str, Any]:
    """The message as it is after results of its calls."""
    folded = Transcript()
    folded.fold(chunks.messages_snapshot([message], timestamp=0))
    folded.fold_all(results)
    return folded.messages()[0]


def _with_approvals(message: dict[str, Any], approvals: Mapping[str, bool | None]) -> dict[str, Any]:
    parts = [_approved(part, approvals) for part in message["parts"]]
    return {**message, "parts": parts}


def _approved(part: dict[str, Any], approvals: Mapping[str, bool | None]) -> dict[str, Any]:
    # Another turn's call may have the same id, and ask for nothing.
    if part.get("type") != "tool-call" or part.get("id") not in approvals or not part.get("approval"):
        return part
    approval = {**part["approval"], "approved": approvals[part["id"]]}
    return {**part, "state": "approval-responded", "approval": approval}


def _result(answer: Answer, now_ms: int) -> Chunk | None:
    """The result of an answer; a call that was approved has none yet."""
    content = DENIED_RESULT if answer.approved is False else answer.content
    if answer.approved or content is None:
        return None
    failed = answer.failed or answer.approved is False
    return chunks.tool_result(f"tool-{answer.call_id}", answer.call_id, content, timestamp=now_ms, error=failed)
