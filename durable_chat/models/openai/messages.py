"""
Make tools, and the ids and names of their calls, acceptable to OpenAI. Other providers, and clients, may have chosen
them.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import Any

from durable_chat.models.base import ToolSpec

ID_CHARS_MAX = 40
"""Maximum length of a call's id. The Responses API accepts 64 characters, Chat Completions 40."""

NAME_CHARS_MAX = 64
"""Maximum length of a tool's name."""

_NOT_IN_NAME = re.compile(r"[^a-zA-Z0-9_-]")


def schema_of(tool: ToolSpec) -> dict[str, Any]:
    """Return the schema of a tool's arguments. OpenAI refuses an object without properties."""
    return {"type": "object", "properties": {}, **tool.parameters}


def with_fitting_calls(messages: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return messages of Chat Completions, or items of the Responses API, with ids and names that are accepted."""
    return [_fitting(message) for message in messages]


def _fitting(message: dict[str, Any]) -> dict[str, Any]:
    made = dict(message)
    for key in ("tool_call_id", "call_id"):
        if key in made:
            made[key] = _id(made[key])
    if made.get("type") == "function_call":
        made["name"] = _name(made["name"])
    if "tool_calls" in made:
        made["tool_calls"] = [_fitting_call(call) for call in made["tool_calls"]]
    return made


def _fitting_call(call: dict[str, Any]) -> dict[str, Any]:
    function = call["function"]
    return {**call, "id": _id(call["id"]), "function": {**function, "name": _name(function["name"])}}


def _id(call_id: str) -> str:
    if len(call_id) <= ID_CHARS_MAX:
        return call_id
    return "call_" + hashlib.sha256(call_id.encode("utf-8", "replace")).hexdigest()[: ID_CHARS_MAX - 5]


def _name(name: str) -> str:
    return _NOT_IN_NAME.sub("_", name)[:NAME_CHARS_MAX]
