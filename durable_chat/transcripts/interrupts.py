"""
Convert the interrupts of a run to CUSTOM chunks, so that every tab can answer them. Convert the approvals that a
session waits for back to interrupts, for tabs that open it.

With an interrupt, only the tab that started the run can answer. It answers under an id that its durable connection does
not send, and the other tabs cannot send anything more. The older CUSTOM events have neither problem.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from durable_chat.transcripts.chunks import Chunk
from durable_chat.transcripts.tool_answers import asks_approval, is_settled, results_in

_APPROVALS = frozenset({"approval", "approval_required"})
_CLIENT_TOOLS = frozenset({"client_tool", "client_tool_input", "tanstack:client_tool_execution"})


def split_interrupts(finished: Chunk) -> tuple[list[Chunk], Chunk]:
    """
    Split a RUN_FINISHED into CUSTOM chunks for the approvals and client tools that it requests, and a RUN_FINISHED with
    the remaining interrupts.
    """
    outcome = finished.get("outcome")
    interrupts = outcome.get("interrupts") if isinstance(outcome, Mapping) else None
    if not isinstance(interrupts, list) or not isinstance(outcome, Mapping) or outcome.get("type") != "interrupt":
        return [], finished
    asked = {at: made for at, interrupt in enumerate(interrupts) if (made := _asked(interrupt)) is not None}
    left = [interrupt for at, interrupt in enumerate(interrupts) if at not in asked]
    rest = {key: value for key, value in finished.items() if key != "outcome"}
    if left or not asked:
        rest["outcome"] = {**outcome, "interrupts": left}
    time = {key: finished[key] for key in ("timestamp",) if key in finished}
    return [made | time for made in asked.values()], rest


def _asked(interrupt: Any) -> Chunk | None:
    if not isinstance(interrupt, Mapping):
        return None
    call_id, metadata = interrupt.get("toolCallId"), interrupt.get("metadata")
    metadata = metadata if isinstance(metadata, Mapping) else {}
    kinds = {kind for kind in (metadata.get("kind"), interrupt.get("reason")) if isinstance(kind, str)}
    if not isinstance(call_id, str):
        return None
    value: dict[str, Any] = {
        "toolCallId": call_id,
        "toolName": metadata.get("toolName"),
        "input": metadata.get("input"),
    }
    if kinds & _CLIENT_TOOLS:
        return {"type": "CUSTOM", "name": "tool-input-available", "value": value}
    if (kinds & _APPROVALS or _is_plain_approval(interrupt)) and isinstance(interrupt.get("id"), str):
        value["approval"] = {"id": interrupt["id"], "needsApproval": True}
        return {"type": "CUSTOM", "name": "approval-requested", "value": value}
    return None


def _is_plain_approval(interrupt: Mapping[str, Any]) -> bool:
    """Whether an interrupt of AG-UI 1.0 asks about a tool call, with a yes or a no as the answer."""
    if interrupt.get("reason") != "tool_call":
        return False
    schema = interrupt.get("responseSchema")
    fields = schema.get("properties") if isinstance(schema, Mapping) else None
    return schema is None or (isinstance(fields, Mapping) and "approved" in fields)


def pending_approvals(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """
    Return an interrupt for each approval that the last turn of a session waits for. Older ones can still be given, but
    the conversation has continued without them.

    The shape is the one that TanStack AI's clients resume from any run, since it is bound to none.
    """
    pending: list[dict[str, Any]] = []
    for message in reversed(messages):
        if message.get("role") == "user":
            break
        results = results_in(message)
        calls = [part for part in message["parts"] if part.get("type") == "tool-call" and part["id"] not in results]
        pending[:0] = [_interrupt(call) for call in calls if asks_approval(call) and not is_settled(call)]
    return pending


def _interrupt(call: Mapping[str, Any]) -> dict[str, Any]:
    name = call.get("name")
    return {
        "id": call["approval"].get("id"),
        "reason": "approval_required",
        "message": f'Approve the call of the tool "{name}"?',
        "toolCallId": call["id"],
        "metadata": {"kind": "approval", "toolName": name, "input": call.get("input")},
    }
