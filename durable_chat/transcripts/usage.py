"""
What a run has used: the counts of each call of a model, and of one that was cut as far as it had told them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SO_FAR = "USAGE"
"""
The type of a chunk by which a model says, in the middle of an answer, what it has used so far (`usage`, as at its
end). It is written nowhere; when the answer is cut its counts are those of the run.
"""

_NAMES = {"promptTokens": "inputTokens", "completionTokens": "outputTokens"}


class Usage:
    """Mutable state: `_ended`, the counts of the calls that told them at their end; `_so_far`, those of the one under way."""

    def __init__(self) -> None:
        self._ended: list[dict[str, Any]] = []
        self._so_far: list[dict[str, Any]] = []

    @property
    def counts(self) -> list[dict[str, Any]]:
        return [*self._ended, *self._so_far]

    def note(self, usage: Any) -> None:
        """What the call under way has used so far."""
        self._so_far = usage_of(usage)

    def add(self, usage: Any) -> None:
        """The call has ended, and this is what it used, where it says so."""
        self._ended += usage_of(usage) or self._so_far
        self._so_far = []


def usage_of(usage: Any) -> list[dict[str, Any]]:
    """AG-UI's list of counts; TanStack's older single object becomes one of them."""
    if isinstance(usage, Mapping):
        return [{_NAMES.get(str(key), str(key)): value for key, value in usage.items()}]
    return [dict(item) for item in usage if isinstance(item, Mapping)] if isinstance(usage, list) else []
