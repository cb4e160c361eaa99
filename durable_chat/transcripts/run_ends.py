"""
How a run ended, as its last chunk says it: for whoever comes when the answer is over, and was not there to see its end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from durable_chat.transcripts.chunks import ERROR_CHARS_MAX, OURS, string_at

UNKNOWN_ERROR = "An error occurred"

INTERRUPTED_CODE = "interrupted"
"""The code of a RUN_ERROR that says: the process that wrote the answer died, or had to end."""

ORDINARY_REASONS = frozenset({None, "stop", "tool_calls"})
"""Finish reasons of an answer that is whole. Any other one (`length`, `content_filter`) says that it was cut."""

RunStatus = Literal["finished", "stopped", "failed", "interrupted"]


@dataclass(frozen=True, slots=True)
class RunEnd:
    """How a run ended: its status, and the finish reason, or the message and code of the error."""

    run_id: str | None
    status: RunStatus
    finish_reason: str | None = None
    error: str | None = None
    code: str | None = None
    usage: Any = None

    @property
    def is_ordinary(self) -> bool:
        """Whether there is nothing to tell of it: the answer is whole."""
        return self.status == "finished" and self.finish_reason in ORDINARY_REASONS

    def shown(self) -> dict[str, Any]:
        """The end as clients are told it, in a snapshot's `lastRun` and in a message's `metadata.durableChat.run`."""
        told = {"finishReason": self.finish_reason, "error": self.error, "code": self.code}
        return {"runId": self.run_id, "status": self.status} | {
            key: value for key, value in told.items() if value is not None
        }


RELEASED = {OURS: {"released": True}}
"""Metadata of the end of a run that only released the tab which asked for it: it says nothing of the answer before it."""


def run_end(chunk: Mapping[str, Any]) -> RunEnd | None:
    """The end that a terminal chunk says, with `metadata.tanstack` restored to its top; None where it says of none."""
    if _is_release(chunk):
        return None
    run_id, usage = string_at(chunk, "runId"), chunk.get("usage")
    if chunk.get("type") == "RUN_ERROR":
        error = (string_at(chunk, "message") or UNKNOWN_ERROR)[:ERROR_CHARS_MAX]
        code = string_at(chunk, "code")
        return RunEnd(run_id, "interrupted" if code == INTERRUPTED_CODE else "failed", None, error, code, usage)
    outcome = chunk.get("outcome")
    cancelled = isinstance(outcome, Mapping) and outcome.get("type") == "cancelled"
    stopped = chunk.get("stopped") is True or cancelled
    return RunEnd(run_id, "stopped" if stopped else "finished", string_at(chunk, "finishReason"), usage=usage)


def _is_release(chunk: Mapping[str, Any]) -> bool:
    metadata = chunk.get("metadata")
    ours = metadata.get(OURS) if isinstance(metadata, Mapping) else None
    return isinstance(ours, Mapping) and ours.get("released") is True
