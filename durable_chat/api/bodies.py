"""
Posted chat bodies: read within a limit, checked, and decoded only as far as the turn needs.

Stock clients post the whole history with every turn, so a body can be long while only one message in it matters. The
messages stay raw until they are needed. Long bodies are parsed off the event loop in pieces, because a decoder holds
the GIL while it works.
"""

from __future__ import annotations

import asyncio
import codecs
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import msgspec
from starlette.requests import Request

from durable_chat.api.doors.signposts import check_door, missing
from durable_chat.errors import InvalidRequest, TooLarge, UnsupportedMediaType
from durable_chat.http.bodies import HeldBody, read_pieces
from durable_chat.models.base import ToolSpec
from durable_chat.models.tools import TOOLS_MAX, posted_specs
from durable_chat.protocol.messages import is_json
from durable_chat.protocol.nesting import measure
from durable_chat.protocol.surrogates import mend_halves
from durable_chat.sessions.running.posted import PARSED_HERE_BYTES_MAX, Posted, decoded, to_ui_message
from durable_chat.transcripts.chunks import (
    MESSAGE_ID_CHARS_MAX,
    NESTING_MAX,
    is_id,
)
from durable_chat.transcripts.resumes import read_resume
from durable_chat.transcripts.schemas import check_count, check_messages
from durable_chat.transcripts.tool_answers import Answer, answers_in

VALUES_MAX = 500_000
"""
The maximum number of JSON values in a body. Each becomes a Python object while its message is decoded. Real bodies have
a hundredth of that.
"""

_SLICE_BYTES = 1024 * 1024
"""The bytes checked in one step, so that the event loop can run in between: about 1 ms of work."""

Parsed = TypeVar("Parsed")
Decoded = TypeVar("Decoded")


class _Body(msgspec.Struct):
    """The top level of a body. Fields of any type are checked by hand, to give clear errors."""

    messages: list[msgspec.Raw] | None = None
    id: Any = None
    thread_id: Any = msgspec.field(name="threadId", default=None)
    run_id: Any = msgspec.field(name="runId", default=None)
    parent_run_id: Any = msgspec.field(name="parentRunId", default=None)
    data: msgspec.Raw = msgspec.Raw(b"null")
    tools: msgspec.Raw = msgspec.Raw(b"null")
    context: msgspec.Raw = msgspec.Raw(b"null")
    resume: msgspec.Raw = msgspec.Raw(b"null")
    protocol_version: Any = msgspec.field(name="protocolVersion", default=None)
    forwarded_props: msgspec.Raw = msgspec.field(name="forwardedProps", default=msgspec.Raw(b"null"))
    trigger: Any = None
    commands: msgspec.Raw = msgspec.Raw(b"null")
    method: Any = None


_BODY = msgspec.json.Decoder(_Body)


@dataclass(frozen=True, slots=True)
class ChatBody(Posted):
    """
    A posted body in the shape of TanStack AI and AG-UI. With `is_run_input` it is AG-UI's `RunAgentInput`, whose sender
    expects the run itself as the response. `protocol_version` is None for clients before AG-UI 1.0. `call_ids` are the
    tool calls that the client has, if the body answers any.
    """

    is_run_input: bool = False
    protocol_version: str | None = None
    call_ids: frozenset[str] = frozenset()


async def read_posted(request: Request, bytes_max: int, held: HeldBody) -> ChatBody:
    """Read and parse the body of a POST in the shape of TanStack AI and AG-UI. Raises what `read_parsed` raises."""
    return await read_parsed(request, bytes_max, held, parse_body)


async def read_parsed(
    request: Request, bytes_max: int, held: HeldBody, parse: Callable[[bytes | bytearray], Parsed]
) -> Parsed:
    """
    Read the JSON body of a POST and return what `parse` makes of it, in a thread if it is long.

    Raises TooLarge and Unavailable before the whole body is read, UnsupportedMediaType when it is not JSON, and
    what `parse` raises.
    """
    if not is_json(request.headers.get("content-type", "")):
        raise UnsupportedMediaType("The Content-Type must be application/json.")
    pieces = await read_pieces(request.scope, request.receive, bytes_max, held)
    size = sum(map(len, pieces))
    if size <= PARSED_HERE_BYTES_MAX:
        return parse(b"".join(pieces))
    return await asyncio.to_thread(_parse_pieces, pieces, size, parse)


def _parse_pieces(pieces: list[bytes | bytearray], size: int, parse: Callable[[bytes | bytearray], Parsed]) -> Parsed:
    """
    Join and parse the pieces, in a thread. They are joined one by one: copying all at once would hold the GIL for long.
    """
    body = bytearray(size)
    at = 0
    for piece in pieces:
        body[at : at + len(piece)] = piece
        at += len(piece)
    pieces.clear()
    return parse(body)


def parse_body(body: bytes | bytearray) -> ChatBody:
    """Check and parse the whole body, before anything of it is written. Raises InvalidRequest and TooLarge."""
    check_utf8(body)
    check_size(body)
    top = decode_top(_BODY, body, "an object with a list of messages")
    _check_door(top)
    resume = read_resume(decoded(top.resume))
    messages = top.messages or []
    if not messages and not resume:
        raise missing("The body has no messages. Send at least one in `messages`.")
    check_count(messages)
    check_messages(map(decoded, messages))
    user, last_role, answers, older = _newest(messages)
    if user is None and not answers and not resume:
        raise InvalidRequest("The body has no user message.", code="no_messages")
    posted = Posted(
        user,
        last_role,
        tuple(messages),
        _data(top),
        session_ids_of(top.id, top.thread_id),
        answers,
        older,
        resume,
        _run_id(top.run_id, "runId"),
        _run_id(top.parent_run_id, "parentRunId"),
        _tools(top.tools),
    )
    return _chat_body(posted, top)


def _chat_body(posted: Posted, top: _Body) -> ChatBody:
    """Add what only the response needs to know."""
    named = isinstance(top.thread_id, str) and isinstance(top.run_id, str)
    # AG-UI's clients always send both lists, and the durable transport none of them.
    is_run_input = named and bytes(top.tools)[:1] == b"[" and bytes(top.context)[:1] == b"["
    version = top.protocol_version if isinstance(top.protocol_version, str) else None
    answers = posted.resume or posted.answers or posted.older
    call_ids = frozenset(_call_ids(map(decoded, posted.history))) if answers else frozenset[str]()
    shared = {field.name: getattr(posted, field.name) for field in fields(Posted)}
    return ChatBody(**shared, is_run_input=is_run_input, protocol_version=version, call_ids=call_ids)


def _call_ids(messages: Iterable[Any]) -> Iterable[str]:
    """Yield the ids of all tool calls in messages of either shape."""
    for message in messages:
        calls = message.get("toolCalls") or [p for p in message.get("parts") or () if p.get("type") == "tool-call"]
        yield from (call["id"] for call in calls if isinstance(call, dict) and is_id(call.get("id")))


def check_utf8(body: bytes | bytearray) -> None:
    """Check the encoding, because the decoder does not look into raw values. Raises InvalidRequest."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    view = memoryview(body)
    try:
        for at in range(0, len(body), _SLICE_BYTES):
            decoder.decode(view[at : at + _SLICE_BYTES])
        decoder.decode(b"", True)
    except UnicodeDecodeError as error:
        raise InvalidRequest("The body is not valid UTF-8.", code="bad_json") from error


def check_size(body: bytes | bytearray) -> None:
    """Raise InvalidRequest for values nested deeper than NESTING_MAX, and TooLarge for more than VALUES_MAX values."""
    if len(body) <= VALUES_MAX and body.count(b"[") + body.count(b"{") <= NESTING_MAX:
        return
    levels, values = measure(body)
    if levels > NESTING_MAX:
        raise InvalidRequest(f"The body is nested deeper than {NESTING_MAX} levels.", code="bad_json")
    if values > VALUES_MAX:
        raise TooLarge(f"The body holds {values} values; the maximum is {VALUES_MAX}.", code="too_many_values")


def decode_top(decoder: msgspec.json.Decoder[Decoded], body: bytes | bytearray, shape: str) -> Decoded:
    """
    Decode the top level of a body, also if it contains halves of surrogate pairs. `shape` says what the body must be.
    Raises InvalidRequest.
    """
    try:
        try:
            return decoder.decode(body)
        except msgspec.ValidationError:
            raise
        except msgspec.DecodeError:
            mended = mend_halves(body)
            if mended is None:
                raise
            return decoder.decode(mended)
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"The body must be {shape}.", code="bad_body") from error
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise InvalidRequest("The body is not valid JSON.", code="bad_json") from error


def _check_door(top: _Body) -> None:
    commands: list[Any] | None = [] if bytes(top.commands)[:1] == b"[" else None
    fields = {"trigger": top.trigger, "commands": commands, "method": top.method, "messages": top.messages}
    check_door(fields)


_Newest = tuple[dict[str, Any] | None, str, tuple[Answer, ...], tuple[Answer, ...]]


def _newest(messages: list[msgspec.Raw]) -> _Newest:
    """
    Find the last user message, the last message's role, the answers in the messages next to the user message, and the
    older answers. A person may answer a question long after it was asked.
    """
    last_role = ""
    user: dict[str, Any] | None = None
    newer, older = dict[str, Answer](), dict[str, Answer]()
    answers = newer
    for raw in reversed(messages):
        message = decoded(raw)
        role = message["role"]
        last_role = last_role or role
        if role != "user":  # keep nothing else of other messages, since there may be many
            answers |= {answer.call_id: answer for answer in answers_in([message])}
        elif user is None:
            user = to_ui_message(message)
        else:
            answers = older
    return user, last_role, tuple(newer.values()), tuple(older.values())


def _run_id(value: Any, name: str) -> str | None:
    if value is None:
        return None
    if is_id(value):
        return str(value)
    raise InvalidRequest(f"`{name}` must be a string of 1 to {MESSAGE_ID_CHARS_MAX} characters.", code="bad_run_id")


def _tools(raw: msgspec.Raw) -> tuple[ToolSpec, ...]:
    """Return the client's own tools, as AG-UI posts them. Skip invalid ones."""
    if bytes(raw) == b"null":
        return ()
    listed = decoded(raw)
    if not isinstance(listed, list) or len(listed) > TOOLS_MAX:
        raise InvalidRequest(f"`tools` must be a list of at most {TOOLS_MAX} tools.", code="bad_tools")
    return posted_specs(listed)


def _data(top: _Body) -> dict[str, Any]:
    """Return `data`, or what AG-UI's clients send in its place."""
    data = decoded(top.data)
    if not isinstance(data, dict | None):
        raise InvalidRequest("`data` must be an object.", code="bad_message")
    props = decoded(top.forwarded_props) if data is None else None
    return data or (props if isinstance(props, dict) else {})


def session_ids_of(*values: Any) -> frozenset[str]:
    """Return the session ids among these fields of a body. Raises InvalidRequest."""
    found = [value for value in values if value is not None]
    if not all(isinstance(value, str) for value in found):
        raise InvalidRequest("The session id must be a string.", code="bad_id")
    return frozenset(found)
