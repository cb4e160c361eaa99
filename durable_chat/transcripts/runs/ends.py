"""
The end of a run, read from its last chunk, for clients that connect after the run is over.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from durable_chat.transcripts.chunks import ERROR_CHARS_MAX, OURS, string_at

UNKNOWN_ERROR = "An error occurred"

INTERRUPTED = "The answer was interrupted."
INTERRUPTED_CODE = "interrupted"
"""The message, and the code, of the RUN_ERROR of a run whose process crashed or had to stop."""

ORDINARY_REASONS = frozenset({None, "stop", "tool_calls"})
"""Finish reasons of a complete answer. Any other one (`length`, `content_filter`) means that the answer was cut off."""

ENDS = frozenset({"RUN_FINISHED", "RUN_ERROR"})
"""The types of the chunks that end a run."""

RunStatus = Literal["finished", "stopped", "failed", "interrupted"]


@dataclass(frozen=True, slots=True)
class RunEnd:
    """The end of a run: its status, and the finish reason, or the message and code of the error."""

    run_id: str | None
    status: RunStatus
    finish_reason: str | None = None
    error: str | None = None
    code: str | None = None
    usage: Any = None

    @property
    def is_ordinary(self) -> bool:
        """Whether the answer is complete, so that there is nothing to report."""
        return self.status == "finished" and self.finish_reason in ORDINARY_REASONS

    def shown(self) -> dict[str, Any]:
        """
        Return the end as clients receive it, in a snapshot's `lastRun` and in a message's `metadata.durableChat.run`.
        """
        told = {"finishReason": self.finish_reason, "error": self.error, "code": self.code}
        return {"runId": self.run_id, "status": self.status} | {
            key: value for key, value in told.items() if value is not None
        }


RELEASED = {OURS: {"released": True}}
"""
Metadata on the end of a run that only releases the tab which requested it. It says nothing about the answer before it.
"""


def run_end(chunk: Mapping[str, Any]) -> RunEnd | None:
    """
    Return the end described by a terminal chunk whose `metadata.tanstack` is restored to its top level. Return None if
    the chunk only releases a tab.
    """
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
