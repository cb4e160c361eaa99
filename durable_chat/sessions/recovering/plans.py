"""
What a turn asks beside its messages, kept while its run has no end. Recovery makes the same turn again from it.
"""

from __future__ import annotations

from typing import Any

import msgspec

from durable_chat.models.base import ToolSpec
from durable_chat.transcripts.chunks import InvalidChunk, decode_json, encode_json
from durable_chat.transcripts.resumes import Resume
from durable_chat.transcripts.tool_answers import Answer

PLAN_BYTES_MAX = 64 * 1024
"""The maximum size of a plan. It is written with every renewal of the run's lease. A run with more is not resumed."""


class Plan(msgspec.Struct, frozen=True, omit_defaults=True):
    """
    The fields of a `Turn` that are not in the log. `data` may hold what only the sender should see, so the plan is kept
    in a record beside the log. A log without records has no plans: its answers end after a crash.

    The fields from `answers` on are kept while a turn waits. The log has its message, and nothing else of its request.
    """

    data: dict[str, Any] = {}
    tools: tuple[ToolSpec, ...] = ()
    approved: tuple[str, ...] = ()
    waits: bool = False
    answers: tuple[Answer, ...] = ()
    resume: tuple[Resume, ...] = ()
    parent_run_id: str | None = None
    activity: str | None = None
    input: dict[str, Any] = {}

    def text(self) -> str:
        """Return the plan as JSON, or "" if it cannot be kept."""
        try:
            encoded = encode_json(self)
        except InvalidChunk:
            return ""
        return encoded.decode() if len(encoded) <= PLAN_BYTES_MAX else ""


def read_plan(text: str) -> Plan | None:
    """Return the plan in a record, or None if there is none, as for a turn with the user's own key."""
    if not text:
        return None
    try:
        return msgspec.convert(decode_json(text), Plan)
    except (InvalidChunk, msgspec.ValidationError):
        return None
