"""
The schema of messages. A posted message that violates it is rejected; a stored message is repaired.

Both checks use the tables below. Every message in a transcript satisfies them, so readers need no further checks. Keys
and part types that no table names are unrestricted, because clients and applications define their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from durable_chat.errors import InvalidRequest, TooLarge

MESSAGES_MAX = 10_000
"""Maximum messages of one request. Clients post the whole session each time, and no model reads a longer one."""

PARTS_MAX = 10_000
"""Maximum parts of one message. An answer with a thousand tool calls has three thousand."""

PARTS_IN_ALL_MAX = 100_000
"""Maximum parts of one request. Checking and importing that many takes a thread about a second."""

UNREADABLE = "unreadable"
"""
The type of the part that replaces an unreadable one: `{type, was, reason}`. Clients ignore unknown types; this server's
page shows a placeholder.
"""

Part = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Problem:
    """A violation of the schema: its path in the value, and what was expected there."""

    path: str
    expected: str
    found: Any

    def within(self, name: str) -> Problem:
        """
        Return the problem relative to the enclosing value, which holds this one under a name or an index such as `[0]`.
        """
        joint = "" if not self.path or self.path.startswith("[") else "."
        return Problem(f"{name}{joint}{self.path}", self.expected, self.found)

    def __str__(self) -> str:
        return f"{self.path} must be {self.expected}, not {_named(self.found)}"


SHOWN_CHARS_MAX = 40
"""Characters of a wrong string that an error shows: enough to find it."""

_NAMES: Mapping[type, str] = {dict: "an object", list: "a list", int: "a number", float: "a number"}


def _named(value: Any) -> str:
    if isinstance(value, bool | str):
        return repr(value[:SHOWN_CHARS_MAX]) if isinstance(value, str) else str(value).lower()
    return "missing" if value is None else _NAMES.get(type(value), type(value).__name__)


Check = Callable[[Any], Problem | None]


@dataclass(frozen=True, slots=True)
class Field:
    """A field of an object. Null counts as missing. A required field may have the name `other` instead."""

    check: Check
    required: bool = False
    other: str | None = None


Rules = Mapping[str, Field]


def _is(kind: type, expected: str) -> Check:
    return lambda value: None if isinstance(value, kind) else Problem("", expected, value)


def _problem_in(value: Mapping[str, Any], rules: Rules) -> Problem | None:
    for name, field in rules.items():
        found = value.get(name)
        if found is None and field.other is not None:
            found = value.get(field.other)
        if found is None and not field.required:
            continue
        problem = field.check(found)
        if problem is not None:
            return problem.within(name)
    return None


def _object(rules: Rules) -> Check:
    def check(value: Any) -> Problem | None:
        return _problem_in(value, rules) if isinstance(value, Mapping) else Problem("", "an object", value)

    return check


def _list(check: Check, expected: str) -> Check:
    def check_all(value: Any) -> Problem | None:
        if not isinstance(value, list | tuple):
            return Problem("", expected, value)
        for at, element in enumerate(value):
            problem = check(element)
            if problem is not None:
                return problem.within(f"[{at}]")
        return None

    return check_all


_STRING, _BOOL = _is(str, "a string"), _is(bool, "true or false")
_OBJECT = _is(Mapping, "an object")
_TEXT, _OBJECTS = Field(_STRING), Field(_OBJECT)
_NEEDED = Field(_STRING, required=True)
_SOURCE: Rules = {"type": _NEEDED, "value": _TEXT, "mimeType": _TEXT}
_FILE: Rules = {"source": Field(_object(_SOURCE), required=True)}

PARTS: Mapping[str, Rules] = {
    "text": {"content": Field(_STRING, required=True, other="text")},
    "thinking": {"content": _NEEDED, "stepId": _TEXT, "signature": _TEXT},
    "tool-call": {
        "id": _NEEDED,
        "name": _TEXT,
        "arguments": _TEXT,
        "state": _TEXT,
        "approval": Field(_object({"id": _TEXT, "approved": Field(_BOOL)})),
        "metadata": _OBJECTS,
    },
    "tool-result": {"toolCallId": _NEEDED, "state": _TEXT, "error": _TEXT},
    "structured-output": {"raw": _NEEDED, "status": _NEEDED, "reasoning": _TEXT, "errorMessage": _TEXT},
    "ui-resource": {"resource": Field(_OBJECT, required=True), "toolCallId": _TEXT, "toolName": _TEXT},
    **dict.fromkeys(("image", "audio", "video", "document"), _FILE),
}
"""The rules of each part type. Other types have none."""

_TYPED: Rules = {"type": _NEEDED}


def part_problem(part: Any) -> Problem | None:
    """Return the problem of a part, or None."""
    if not isinstance(part, Mapping):
        return Problem("", "an object", part)
    kind = part.get("type")
    if not isinstance(kind, str):
        return _problem_in(part, _TYPED)
    rules = PARTS.get(kind)
    return None if rules is None else _problem_in(part, rules)


def readable_part(part: Any) -> Part:
    """Return a part of a log unchanged if it satisfies the rules, otherwise its replacement."""
    problem = part_problem(part)
    if problem is None:
        return part if type(part) is dict else dict(part)
    kind = part.get("type") if isinstance(part, Mapping) else None
    was = {"was": kind} if isinstance(kind, str) else {}
    return {"type": UNREADABLE, **was, "reason": str(problem.within("part") if not problem.path else problem)}


# Messages that clients post: UIMessages with `parts`, or AG-UI's messages with `content`.


_PARTS_LIST = _list(part_problem, "a list of objects")


def _content(value: Any) -> Problem | None:
    if isinstance(value, str):
        return None
    problem = _PARTS_LIST(value)
    return Problem("", "a string or a list of objects", value) if problem is not None and not problem.path else problem


_CALL: Rules = {
    "id": _NEEDED,
    "function": Field(_object({"name": _NEEDED, "arguments": _TEXT}), required=True),
    "metadata": _OBJECTS,
}
_UI_MESSAGE: Rules = {"id": _TEXT, "parts": Field(_PARTS_LIST)}
_SPOKEN: Rules = {"id": _TEXT, "content": Field(_content)}

ROLES: Mapping[str, Rules] = {
    **dict.fromkeys(("user", "system", "developer", "reasoning"), _SPOKEN),
    "assistant": {**_SPOKEN, "toolCalls": Field(_list(_object(_CALL), "a list of tool calls"))},
    "tool": {**_SPOKEN, "toolCallId": _NEEDED},
    "activity": {"id": _TEXT},
}
"""The rules of AG-UI's messages by role. There are no other roles."""

SHOWN_ROLES = frozenset(ROLES) - {"tool"}
"""The roles in a transcript. There, the result of a tool is a part and not a message."""

_ROLE = f"one of {', '.join(ROLES)}"


def message_problem(message: Any) -> Problem | None:
    """Return the problem of a posted message, or None."""
    if not isinstance(message, Mapping):
        return Problem("", "an object", message)
    role = message.get("role")
    rules = ROLES.get(role) if isinstance(role, str) else None
    if rules is None:
        return Problem("role", _ROLE, role)
    return _problem_in(message, rules if message.get("parts") is None else _UI_MESSAGE)


def check_count(messages: Sequence[Any]) -> None:
    """Raise TooLarge when a request has more than MESSAGES_MAX messages."""
    if len(messages) > MESSAGES_MAX:
        told = f"A request may contain at most {MESSAGES_MAX} messages, but this one has {len(messages)}."
        raise TooLarge(told + " Post only the newest ones.", code="too_many_messages")


def check_messages(messages: Iterable[Any]) -> None:
    """Check posted messages. Raises InvalidRequest `bad_message`, which names the path of the problem, and TooLarge."""
    left = PARTS_IN_ALL_MAX
    for at, message in enumerate(messages):
        problem = message_problem(message)
        if problem is not None:
            raise InvalidRequest(f"{problem.within(f'messages[{at}]')}.", code="bad_message")
        count = sum(len(value) for key in ("parts", "content") if isinstance(value := message.get(key), list | tuple))
        left -= count
        if count > PARTS_MAX:
            told = f"messages[{at}] has {count} parts; a message may contain at most {PARTS_MAX}."
            raise TooLarge(told, code="too_many_parts")
        if left < 0:
            told = f"The messages of a request may contain at most {PARTS_IN_ALL_MAX} parts in total."
            raise TooLarge(told, code="too_many_parts")


# Messages in a transcript.

_SHOWN: Rules = {
    "id": _NEEDED,
    "role": _NEEDED,
    "parts": Field(_PARTS_LIST, required=True),
    "metadata": _OBJECTS,
    "createdAt": _TEXT,
    "name": _TEXT,
}


def transcript_problem(messages: Any) -> Problem | None:
    """Return the problem of a transcript's messages, or None. A problem here means damaged data or a bug."""
    return _list(_object(_SHOWN), "a list of messages")(messages)
