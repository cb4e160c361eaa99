"""
Count what a run has used: one entry for each model call. A call that was cut off has the last counts it reported.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SO_FAR = "USAGE"
"""
The type of a chunk that reports usage in the middle of an answer (`usage`, in the same form as at the end). It is never
stored. If the answer is cut off, these counts are the call's.
"""

SUMMARIZING = "context-summary"
"""
The `purpose` of an entry that counts the call of a summary for the model's context. Other entries have no purpose.
"""

_NAMES = {"promptTokens": "inputTokens", "completionTokens": "outputTokens"}


class Usage:
    """Mutable state: `_ended`, the counts of calls that have ended; `_so_far`, those of the call in progress."""

    def __init__(self) -> None:
        self._ended: list[dict[str, Any]] = []
        self._so_far: list[dict[str, Any]] = []

    @property
    def counts(self) -> list[dict[str, Any]]:
        return [*self._ended, *self._so_far]

    @property
    def ended(self) -> list[dict[str, Any]]:
        """The counts of the calls that have ended."""
        return list(self._ended)

    def note(self, usage: Any) -> None:
        """Record what the call in progress has used so far."""
        self._so_far = usage_of(usage)

    def add(self, usage: Any) -> None:
        """Record the end of a call, with its final counts if it reports any."""
        self._ended += usage_of(usage) or self._so_far
        self._so_far = []


def usage_of(usage: Any) -> list[dict[str, Any]]:
    """Return usage as AG-UI's list of counts. TanStack's older single object becomes a list of one."""
    if isinstance(usage, Mapping):
        return [{_NAMES.get(str(key), str(key)): value for key, value in usage.items()}]
    return [dict(item) for item in usage if isinstance(item, Mapping)] if isinstance(usage, list) else []
