"""
Answers to tool calls from people and their browsers: find them in posted messages and apply them to the transcript.
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
    """The answer to one tool call: whether it was approved, or its output (`content`, text or JSON in a string)."""

    call_id: str
    approved: bool | None = None
    content: str | None = None
    failed: bool = False


def answers_in(messages: Iterable[Mapping[str, Any]]) -> tuple[Answer, ...]:
    """
    Return the answers in posted messages, at most one for each call. Messages are UIMessages with parts, or AG-UI's
    messages with the role `tool`.
    """
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
    """
    Return the output of a client's tool and whether it failed. Newer clients add a result, older ones only an output.
    """
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
    """Return the part of a tool call in the message, or None."""
    calls = (part for part in message["parts"] if part.get("type") == "tool-call")
    return next((part for part in calls if part.get("id") == call_id), None)


def is_settled(call: Mapping[str, Any]) -> bool:
    """Whether the call's own part contains its outcome."""
    return call.get("output") is not None or call.get("state") in ("complete", "error")


def results_in(message: Mapping[str, Any]) -> frozenset[str]:
    """Return the ids of the calls whose results are in the message."""
    return frozenset(part["toolCallId"] for part in message["parts"] if part.get("type") == "tool-result")


def asks_approval(call: Mapping[str, Any]) -> bool:
    """Whether a call waits for approval by a person."""
    approval = call.get("approval")
    return isinstance(approval, Mapping) and not isinstance(approval.get("approved"), bool)


def accepted(transcript: Transcript, answer: Answer, server_tools: Container[str]) -> Answer | None:
    """
    Return the part of an answer that is new to the log, or None. The first answer to each call counts. A call that asks
    for approval accepts only a decision. Clients cannot set the output of a server tool.
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
    """
    Whether any call, except those in `but`, still waits for a client: for a decision, or for the output of a client
    tool.
    """
    results = results_in(message)
    calls = (part for part in message["parts"] if part.get("type") == "tool-call" and part["id"] not in but)
    waiting = (call for call in calls if call["id"] not in results and not is_settled(call))
    return any(asks_approval(call) or call.get("state") == "input-complete" for call in waiting)


@dataclass(frozen=True, slots=True)
class Answered:
    """
    The result of applying answers to a transcript.

    `messages` are all messages with the answers applied. `chunks` are to be written once the run has started: the calls
    to execute, repeated because older clients forget them after the snapshot, and the results of the other calls.
    `approved` are the calls that were approved and must now be executed. `waits` says whether another call next to them
    still waits. `late` says whether a person has written a message after those that hold the calls.
    """

    messages: list[dict[str, Any]]
    chunks: tuple[Chunk, ...]
    approved: tuple[str, ...]
    waits: bool
    late: bool


def give_answers(transcript: Transcript, answers: Sequence[Answer], now_ms: int) -> Answered:
    """Apply accepted answers. Answers are folded as their results are, so that the snapshot and the results agree."""
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
    """
    Return the chunks of a call that is executed in a later run than the one that made it. The folded call is unchanged.
    """
    named = {"toolCallId": call["id"], "timestamp": now_ms}
    yield {"type": "TOOL_CALL_START", **named, "toolCallName": call.get("name"), "parentMessageId": message["id"]}
    if call.get("arguments"):
        yield {"type": "TOOL_CALL_ARGS", **named, "delta": call["arguments"]}
    yield {"type": "TOOL_CALL_END", **named}


def _in_message(message: Mapping[str, Any], begun: Sequence[Chunk], now_ms: int) -> Sequence[Chunk]:
    """
    Wrap the calls in the start and end of their message. Otherwise clients attach them to the message of the calls
    before.
    """
    named = {"messageId": message["id"], "timestamp": now_ms}
    start = {"type": "TEXT_MESSAGE_START", **named, "role": "assistant"}
    return [start, *begun, {"type": "TEXT_MESSAGE_END", **named}]


def with_results(message: dict[str, Any], results: Iterable[Chunk]) -> dict[str, Any]:
    """Return the message with results of its calls folded in."""
    folded = Transcript()
    folded.fold(chunks.messages_snapshot([message], timestamp=0))
    folded.fold_all(results)
    return folded.messages()[0]


def _with_approvals(message: dict[str, Any], approvals: Mapping[str, bool | None]) -> dict[str, Any]:
    parts = [_approved(part, approvals) for part in message["parts"]]
    return {**message, "parts": parts}


def _approved(part: dict[str, Any], approvals: Mapping[str, bool | None]) -> dict[str, Any]:
    # A call of another turn may have the same id without asking for approval.
    if part.get("type") != "tool-call" or part.get("id") not in approvals or not part.get("approval"):
        return part
    approval = {**part["approval"], "approved": approvals[part["id"]]}
    return {**part, "state": "approval-responded", "approval": approval}


def _result(answer: Answer, now_ms: int) -> Chunk | None:
    """Return the result of an answer. An approved call has no result yet."""
    content = DENIED_RESULT if answer.approved is False else answer.content
    if answer.approved or content is None:
        return None
    failed = answer.failed or answer.approved is False
    return chunks.tool_result(f"tool-{answer.call_id}", answer.call_id, content, timestamp=now_ms, error=failed)
