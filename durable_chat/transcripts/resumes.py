"""
AG-UI's `resume`: answers to interrupts, by interrupt id.

A client that received an interrupt, or the CUSTOM chunk that replaces it here, answers in its next request with
`resume: [{interruptId, status, payload}]` instead of the state of a tool call.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from durable_chat.errors import InvalidRequest
from durable_chat.transcripts.chunks import encode_json, is_id
from durable_chat.transcripts.tool_answers import Answer, asks_approval
from durable_chat.transcripts.transcript import Transcript

RESUMES_MAX = 128
"""Maximum interrupts answered by one request. This equals the maximum number of tools, and no run asks for more."""

CANCELLED_RESULT = '{"error":"The person cancelled this call."}'

_STATUSES = frozenset({"resolved", "cancelled"})
_PREFIXES = ("approval_", "client_tool_")


@dataclass(frozen=True, slots=True)
class Resume:
    """The answer to one interrupt. `payload` is any JSON value."""

    interrupt_id: str
    cancelled: bool
    payload: Any = None

    def answer(self, call_id: str) -> Answer:
        """
        Return the answer to the interrupt's tool call, for an approval or a client tool. For an approval, only an
        explicit yes approves; anything else declines.
        """
        if self.cancelled:
            return Answer(call_id, False, CANCELLED_RESULT, failed=True)
        said = self.payload.get("approved") if isinstance(self.payload, Mapping) else self.payload
        content = self.payload if isinstance(self.payload, str) else encode_json(self.payload).decode()
        return Answer(call_id, said is True, content)


def read_resume(value: Any) -> tuple[Resume, ...]:
    """Return the `resume` of a request body, one for each interrupt. Raises InvalidRequest `bad_resume`."""
    if value is None:
        return ()
    if not isinstance(value, list) or len(value) > RESUMES_MAX:
        raise InvalidRequest(f"`resume` must be a list of at most {RESUMES_MAX} answers.", code="bad_resume")
    found: dict[str, Resume] = {}
    for at, item in enumerate(value):
        if not isinstance(item, Mapping) or not is_id(item.get("interruptId")):
            raise InvalidRequest(f"`resume[{at}]` must be an object with an `interruptId`.", code="bad_resume")
        status = item.get("status")
        if not isinstance(status, str) or status not in _STATUSES:
            raise InvalidRequest(f"`resume[{at}].status` must be resolved or cancelled.", code="bad_resume")
        resume = Resume(item["interruptId"], status == "cancelled", item.get("payload"))
        found.setdefault(resume.interrupt_id, resume)
    return tuple(found.values())


def resumed(resume: tuple[Resume, ...], transcript: Transcript) -> list[Answer]:
    """Return the answers to the tool calls of these interrupts."""
    if not resume:
        return []
    asked = {
        part["approval"].get("id"): part["id"]
        for message in transcript.shown()
        for part in message["parts"]
        if part.get("type") == "tool-call" and asks_approval(part)
    }
    return [each.answer(asked.get(each.interrupt_id) or _named(each.interrupt_id, transcript)) for each in resume]


def _named(interrupt_id: str, transcript: Transcript) -> str:
    """Return the call id in an interrupt's id. If there is no such call, return the interrupt's id."""
    names = [interrupt_id, *(interrupt_id.removeprefix(prefix) for prefix in _PREFIXES)]
    return next((name for name in names if transcript.calling(name) is not None), names[-1])
