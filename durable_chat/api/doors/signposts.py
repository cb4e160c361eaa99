"""
Which door a request body is for. A body that was sent to another door is refused with the name of the right one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from durable_chat.errors import InvalidRequest

DOORS: Mapping[str, str] = {
    "/api/chat": "{messages, data?}, or an AG-UI RunAgentInput for the run as the response",
    "/api/agui": "AG-UI's {threadId, runId, messages, tools, context}",
    "/api/ai-sdk": "the AI SDK's {id, messages, trigger}",
    "/api/copilotkit": "CopilotKit's {method, params, body}",
    "/api/assistant-transport": "assistant-ui's {commands, state, threadId}",
}
"""The doors, and the bodies that they take."""

TRIGGERS = ("submit-message", "regenerate-message")
"""What a request of the AI SDK asks. A tuple, because a body may hold any JSON value there."""


def check_door(top: Mapping[str, Any]) -> None:
    """Raise InvalidRequest if these top-level fields of a body belong to another door than AG-UI's and TanStack's."""
    right = _door_of(top)
    if right is not None:
        raise InvalidRequest(
            f"This is a body for {right}: {DOORS[right]}. Send it there. This route takes {DOORS['/api/chat']}.",
            code="wrong_door",
        )


def _door_of(top: Mapping[str, Any]) -> str | None:
    if top.get("trigger") in TRIGGERS and isinstance(top.get("messages"), list):
        return "/api/ai-sdk"
    if isinstance(top.get("commands"), list):
        return "/api/assistant-transport"
    if isinstance(top.get("method"), str) and not top.get("messages"):
        return "/api/copilotkit"
    return None


def missing(what: str) -> InvalidRequest:
    """The error of a body that fits no door."""
    listed = "; ".join(f"{path} takes {body}" for path, body in DOORS.items())
    return InvalidRequest(f"{what} {listed}.", code="no_messages")


def check_fields(values: Mapping[str, object], wanted: Collection[str]) -> None:
    """Raise InvalidRequest that names the missing fields of a RunAgentInput."""
    absent = [name for name in wanted if values.get(name) is None]
    if absent:
        names = " and ".join(f"`{name}`" for name in absent)
        verb = "is" if len(absent) == 1 else "are"
        raise InvalidRequest(
            f"{names} {verb} missing. This route takes {DOORS['/api/agui']}. {DOORS['/api/chat']} go to /api/chat.",
            code="bad_body",
        )
