"""
Bodies that Vercel's AI SDK posts: `{id, messages, trigger, messageId}`, and the fields that the application adds.

The messages are converted to those of a session, so that everything after that is the same for all frontends.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from starlette.requests import Request

from durable_chat.api.bodies import check_size, check_utf8, parse_body, read_parsed
from durable_chat.api.doors.ai_sdk.chunks import Earlier
from durable_chat.api.doors.ai_sdk.messages import from_ai_sdk_message
from durable_chat.api.doors.signposts import TRIGGERS
from durable_chat.errors import InvalidRequest
from durable_chat.http.bodies import HeldBody
from durable_chat.sessions.running.posted import Posted
from durable_chat.transcripts.chunks import InvalidChunk, decode_json, encode_json

ROLES = ("system", "user", "assistant")

_PASSED = ("id", "threadId", "runId", "tools")
"""The fields of a body that mean the same at every door."""
_OWN = frozenset({*_PASSED, "messages", "trigger", "messageId", "data"})

_TEXTS: Mapping[str, Sequence[str]] = {
    "text": ("text",),
    "reasoning": ("text",),
    "file": ("url", "mediaType"),
    "dynamic-tool": ("toolCallId", "toolName", "state"),
    "tool-": ("toolCallId", "state"),
}
"""The fields of a part that must be strings, by its type."""


@dataclass(frozen=True, slots=True)
class AiSdkPosted(Posted):
    """What an AI SDK client posted. `earlier` is the message that the answer continues, as the client has it."""

    earlier: Earlier | None = None


async def read_ai_sdk(request: Request, bytes_max: int, held: HeldBody) -> AiSdkPosted:
    """Read and convert the body of a POST. Raises what `read_parsed` raises."""
    return await read_parsed(request, bytes_max, held, parse_ai_sdk)


def parse_ai_sdk(body: bytes | bytearray) -> AiSdkPosted:
    """Check and convert a whole body. Raises InvalidRequest and TooLarge."""
    check_utf8(body)
    check_size(body)
    top = _object(body)
    _check_door(top)
    messages = [_checked(message, at) for at, message in enumerate(top["messages"])]
    asked, continued = _asked(top, messages)
    passed = {key: top[key] for key in _PASSED if top.get(key) is not None}
    data = top.get("data") if isinstance(top.get("data"), Mapping) else {}
    more = {key: value for key, value in top.items() if key not in _OWN}
    converted = [made for message in asked for made in from_ai_sdk_message(message)]
    posted = parse_body(encode_json({**passed, "messages": converted, "data": {**more, **(data or {})}}))
    shared = {field.name: getattr(posted, field.name) for field in fields(Posted)}
    return AiSdkPosted(**shared, earlier=None if continued is None else Earlier.of(continued))


def _object(body: bytes | bytearray) -> dict[str, Any]:
    try:
        top = decode_json(bytes(body))
    except InvalidChunk as error:
        raise InvalidRequest("The body is not valid JSON.", code="bad_json") from error
    if not isinstance(top, dict):
        raise InvalidRequest("The body must be an object with `id` and `messages`.", code="bad_body")
    return top


def _check_door(top: Mapping[str, Any]) -> None:
    """
    Raise InvalidRequest for a body without what the AI SDK sends. Name the right door for one of another frontend.
    """
    if "commands" in top:
        raise _misplaced("The body is one of assistant-ui's transport", "/api/assistant-transport")
    if all(key in top for key in ("threadId", "runId", "context")):
        raise _misplaced("The body is AG-UI's RunAgentInput", "/api/agui")
    if not isinstance(top.get("messages"), list):
        told = "`messages` must be a list of UIMessages of the AI SDK, which posts {id, messages, trigger}."
        raise InvalidRequest(told, code="no_messages" if top.get("messages") is None else "bad_body")
    trigger, message_id = top.get("trigger"), top.get("messageId")
    if trigger is not None and trigger not in TRIGGERS:
        raise InvalidRequest(f"`trigger` must be {' or '.join(TRIGGERS)}.", code="bad_trigger")
    if message_id is not None and not isinstance(message_id, str):
        raise InvalidRequest("`messageId` must be a string.", code="bad_message")


def _misplaced(told: str, door: str) -> InvalidRequest:
    return InvalidRequest(f"{told}. Post it to {door}.", code="wrong_door")


def _checked(message: Any, at: int) -> Mapping[str, Any]:
    """Return a message of the AI SDK. Raises InvalidRequest, with the path of the problem."""
    place = f"messages[{at}]"
    if not isinstance(message, Mapping):
        raise InvalidRequest(f"{place} must be an object.", code="bad_message")
    role, parts = message.get("role"), message.get("parts")
    if role not in ROLES:
        raise InvalidRequest(f"{place}.role must be one of {', '.join(ROLES)}.", code="bad_message")
    if parts is None and "content" in message:
        raise _misplaced(f"{place} has `content` in place of `parts`, as AG-UI's messages have", "/api/chat")
    if not isinstance(parts, list):
        raise InvalidRequest(f"{place}.parts must be a list of parts.", code="bad_message")
    if not isinstance(message.get("id"), str | None):
        raise InvalidRequest(f"{place}.id must be a string.", code="bad_message")
    for number, part in enumerate(parts):
        _check_part(part, f"{place}.parts[{number}]")
    return message


def _check_part(part: Any, place: str) -> None:
    if not isinstance(part, Mapping) or not isinstance(part.get("type"), str):
        raise InvalidRequest(f"{place} must be an object with a `type`.", code="bad_message")
    kind = part["type"]
    if kind == "tool-call" or (kind == "text" and "text" not in part and "content" in part):
        raise _misplaced(f"{place} is a part of TanStack AI's messages", "/api/chat")
    for name in _TEXTS.get("tool-" if kind.startswith("tool-") else kind, ()):
        if not isinstance(part.get(name), str):
            raise InvalidRequest(f"{place}.{name} must be a string.", code="bad_message")


def _asked(
    top: Mapping[str, Any], messages: list[Mapping[str, Any]]
) -> tuple[list[Mapping[str, Any]], Mapping[str, Any] | None]:
    """
    Return the messages up to the one that the request is about, and the answer to continue, if it is one. After an
    approval of an older call, `messageId` names that answer, and messages follow it.
    """
    if not messages or top.get("trigger") == "regenerate-message":
        return messages, None
    named = top.get("messageId")
    for at, message in enumerate(messages):
        if named is not None and message.get("id") == named and message["role"] == "assistant":
            return messages[: at + 1], message
    last = messages[-1]
    return messages, last if last["role"] == "assistant" and isinstance(last.get("id"), str) else None
