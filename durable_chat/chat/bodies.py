"""
Posted chat bodies: read within a limit, checked, and decoded only as far as the turn needs.

Stock clients post the whole history every turn, so a body can be long while one message of it matters. The messages
stay raw until somebody asks for them, and what is long is parsed off the event loop in pieces, since a decoder keeps
the interpreter to itself while it works.
"""

from __future__ import annotations

import asyncio
import codecs
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
from starlette.requests import Request

from durable_chat.chat.answers import Answer, answers_in
from durable_chat.chat.attachments import Artifact, Detacher, has_long_data
from durable_chat.chat.call_names import with_unique_calls
from durable_chat.chat.chunks import (
    MESSAGE_ID_CHARS_MAX,
    NESTING_MAX,
    OURS,
    InvalidChunk,
    created_at_of,
    decode_json,
    is_id,
)
from durable_chat.chat.providers.base import ToolSpec
from durable_chat.chat.resumes import Resume, read_resume
from durable_chat.chat.schemas import check_count, check_messages
from durable_chat.chat.tools import TOOLS_MAX, posted_spec
from durable_chat.errors import InvalidRequest, TooLarge, UnsupportedMediaType
from durable_chat.http.bodies import HeldBody, read_pieces
from durable_chat.protocol.halves import mend_halves
from durable_chat.protocol.messages import is_json
from durable_chat.protocol.nesting import measure

VALUES_MAX = 500_000
"""Values of a body: each is an object of Python while its message is looked at. Real bodies hold a hundredth of that."""

PARSED_HERE_BYTES_MAX = 32 * 1024
"""A longer body is parsed in a thread: to check one of that length takes up to some milliseconds."""

LARGE_BYTES = 256 * 1024
"""From here files are decoded in a thread: below, that takes less than handing them over is worth (about 1 ms)."""

_SLICE_BYTES = 1024 * 1024
"""What is looked at in one go, so that the event loop gets its turns: about 1 ms of work."""

_ROLES = frozenset({"user", "assistant"})


class _Body(msgspec.Struct):
    """The top of a body; a field that may hold anything is checked by hand, for a clear error."""

    messages: list[msgspec.Raw] | None = None
    id: Any = None
    thread_id: Any = msgspec.field(name="threadId", default=None)
    run_id: Any = msgspec.field(name="runId", default=None)
    parent_run_id: Any = msgspec.field(name="parentRunId", default=None)
    data: msgspec.Raw = msgspec.Raw(b"null")
    tools: msgspec.Raw = msgspec.Raw(b"null")
    resume: msgspec.Raw = msgspec.Raw(b"null")


_BODY = msgspec.json.Decoder(_Body)


@dataclass(frozen=True, slots=True)
class Posted:
    """
    What a client posted: the newest user message as a UIMessage with an id, the last message's role, what the messages
    next to it answer to tool calls and what `older` ones do, the client's own tools, and the session's name where the
    body has one. `resume` are AG-UI's answers to interrupts, `run_id` is the client's name of this request and
    `parent_run_id` that of the one it goes on with. `history` is all of the messages as they came, for a session that has
    none yet. Once its long files are detached, `files` are those of the user message, and `detacher` takes out those of
    the history.
    """

    user: dict[str, Any] | None
    last_role: str
    history: tuple[msgspec.Raw, ...] = ()
    data: Mapping[str, Any] = field(default_factory=dict)
    session_ids: frozenset[str] = frozenset()
    answers: tuple[Answer, ...] = ()
    older: tuple[Answer, ...] = ()
    resume: tuple[Resume, ...] = ()
    run_id: str | None = None
    parent_run_id: str | None = None
    tools: tuple[ToolSpec, ...] = ()
    files: tuple[Artifact, ...] = ()
    detacher: Detacher | None = None

    @property
    def history_bytes(self) -> int:
        return sum(len(bytes(raw)) for raw in self.history)


async def read_posted(request: Request, bytes_max: int, held: HeldBody) -> Posted:
    """
    The body of a POST. Raises TooLarge and Unavailable before it has been read to the end, UnsupportedMediaType for what is not JSON,
    and InvalidRequest for everything that is no chat body.
    """
    if not is_json(request.headers.get("content-type", "")):
        raise UnsupportedMediaType("The content type must be application/json.")
    pieces = await read_pieces(request.scope, request.receive, bytes_max, held)
    size = sum(map(len, pieces))
    if size <= PARSED_HERE_BYTES_MAX:
        return parse_body(b"".join(pieces))
    return await asyncio.to_thread(_parse_pieces, pieces, size)


def _parse_pieces(pieces: list[bytes | bytearray], size: int) -> Posted:
    """In a thread. The pieces are put together one by one: copying all of it at once would hold everybody up."""
    body = bytearray(size)
    at = 0
    for piece in pieces:
        body[at : at + len(piece)] = piece
        at += len(piece)
    pieces.clear()
    return parse_body(body)


def parse_body(body: bytes | bytearray) -> Posted:
    """The whole body is checked here, before anything of it is written. Raises InvalidRequest and TooLarge."""
    check_utf8(body)
    check_size(body)
    top = _top(body)
    resume = read_resume(_decoded(top.resume))
    messages = top.messages or []
    if not messages and not resume:
        raise InvalidRequest("The body has no messages.", code="no_messages")
    check_count(messages)
    check_messages(map(_decoded, messages))
    user, last_role, answers, older = _newest(messages)
    if user is None and not answers and not resume:
        raise InvalidRequest("There is no message of a user.", code="no_messages")
    return Posted(
        user,
        last_role,
        tuple(messages),
        _data(top.data),
        _session_ids(top),
        answers,
        older,
        resume,
        _run_id(top.run_id, "runId"),
        _run_id(top.parent_run_id, "parentRunId"),
        _tools(top.tools),
    )


def check_utf8(body: bytes | bytearray) -> None:
    """Raises InvalidRequest. The decoder does not look into what stays raw."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    view = memoryview(body)
    try:
        for at in range(0, len(body), _SLICE_BYTES):
            decoder.decode(view[at : at + _SLICE_BYTES])
        decoder.decode(b"", True)
    except UnicodeDecodeError as error:
        raise InvalidRequest("The body is not UTF-8.", code="bad_json") from error


def check_size(body: bytes | bytearray) -> None:
    """Raises InvalidRequest for values that nest deeper than NESTING_MAX, and TooLarge for more than VALUES_MAX of them."""
    if len(body) <= VALUES_MAX and body.count(b"[") + body.count(b"{") <= NESTING_MAX:
        return
    levels, values = measure(body)
    if levels > NESTING_MAX:
        raise InvalidRequest(f"The body nests deeper than {NESTING_MAX} levels.", code="bad_json")
    if values > VALUES_MAX:
        raise TooLarge(f"The body holds {values} values; a body holds at most {VALUES_MAX}.", code="too_many_values")


def _top(body: bytes | bytearray) -> _Body:
    try:
        try:
            return _BODY.decode(body)
        except msgspec.ValidationError:
            raise
        except msgspec.DecodeError:
            mended = mend_halves(body)
            if mended is None:
                raise
            return _BODY.decode(mended)
    except msgspec.ValidationError as error:
        raise InvalidRequest("The body must be an object with a list of messages.", code="bad_body") from error
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise InvalidRequest("The body is not valid JSON.", code="bad_json") from error


_Newest = tuple[dict[str, Any] | None, str, tuple[Answer, ...], tuple[Answer, ...]]


def _newest(messages: list[msgspec.Raw]) -> _Newest:
    """
    The last user message, the last message's role, what is answered after that message and right before it, and what is
    answered before that: a person may answer a question long after it was asked.
    """
    last_role = ""
    user: dict[str, Any] | None = None
    newer, older = dict[str, Answer](), dict[str, Answer]()
    answers = newer
    for raw in reversed(messages):
        message = _decoded(raw)
        role = message["role"]
        last_role = last_role or role
        if role != "user":  # of a message nothing else is kept: there may be many
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
    """The client's own tools, as AG-UI posts them. What is no tool is passed over."""
    if bytes(raw) == b"null":
        return ()
    listed = _decoded(raw)
    if not isinstance(listed, list) or len(listed) > TOOLS_MAX:
        raise InvalidRequest(f"`tools` must be a list of at most {TOOLS_MAX}.", code="bad_tools")
    return tuple(spec for spec in map(posted_spec, listed) if spec is not None)


def _data(raw: msgspec.Raw) -> dict[str, Any]:
    data = _decoded(raw)
    if not isinstance(data, dict | None):
        raise InvalidRequest("`data` must be an object.", code="bad_message")
    return data or {}


def _decoded(raw: msgspec.Raw) -> Any:
    try:
        return decode_json(bytes(raw))
    except InvalidChunk as error:
        raise InvalidRequest("The body is not valid JSON.", code="bad_json") from error


def _session_ids(top: _Body) -> frozenset[str]:
    found = [value for value in (top.id, top.thread_id) if value is not None]
    if not all(isinstance(value, str) for value in found):
        raise InvalidRequest("The session id must be a string.", code="bad_id")
    return frozenset(found)


def to_ui_message(message: Mapping[str, Any]) -> dict[str, Any]:
    """
    The message, which keeps the rules, with `parts`, `metadata` and an id of its own where it came without. Raises
    InvalidRequest for an id that is none.
    """
    message_id = message.get("id")
    if message_id is None:
        message_id = new_message_id()
    if not is_id(message_id):
        raise InvalidRequest(f"A message id is a string of 1 to {MESSAGE_ID_CHARS_MAX} characters.", code="bad_message")
    metadata = message.get("metadata")
    shaped = {
        "id": message_id,
        "role": message.get("role"),
        "parts": _parts(message),
        "metadata": posted_metadata(metadata),
    }
    created_at = created_at_of(message)
    return shaped | ({"createdAt": created_at} if created_at else {})


def posted_metadata(metadata: Any) -> dict[str, Any]:
    """A client's metadata of a message, without what only this server says there, such as how its run ended."""
    return {key: value for key, value in metadata.items() if key != OURS} if isinstance(metadata, dict) else {}


def _parts(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    parts = message.get("parts")
    if parts is None:
        parts = message.get("content") or []
    if isinstance(parts, str):
        parts = [{"type": "text", "content": parts}] if parts else []
    return [_part(part) for part in parts]


def _part(part: Mapping[str, Any]) -> dict[str, Any]:
    """AG-UI and the AI SDK write a text part's text as `text`."""
    if part["type"] == "text" and part.get("content") is None:
        return {**{key: value for key, value in part.items() if key != "text"}, "content": part["text"]}
    return dict(part)


def new_message_id() -> str:
    return f"msg-{uuid.uuid4()}"


async def detach_files(posted: Posted, detacher: Detacher) -> Posted:
    """What was posted, with the long files of the user message beside it. Raises InvalidRequest and TooLarge."""
    posted = replace(posted, detacher=detacher)
    user = posted.user
    if user is None or posted.last_role != "user":  # what is not new is in the log
        return posted
    long = has_long_data([user], LARGE_BYTES)
    user, files = await asyncio.to_thread(detacher.detach, user) if long else detacher.detach(user)
    return replace(posted, user=user, files=tuple(files))


Imported = tuple[list[dict[str, Any]], list[Artifact]]
"""Messages and their files."""


async def import_history(posted: Posted) -> Imported:
    """
    All that was posted, as UIMessages, the newest user message as `posted.user` has it; and their long files. Raises
    InvalidRequest and TooLarge.
    """
    if posted.history_bytes <= PARSED_HERE_BYTES_MAX:
        return _import_detached(posted)
    return await asyncio.to_thread(_import_detached, posted)


def _import_detached(posted: Posted) -> Imported:
    messages = _import(posted)
    if posted.detacher is None:
        return messages, []
    # That of the user message is taken out already, and there is nothing more to find in it.
    messages, files = _detach_all(messages, posted.detacher)
    return messages, [*posted.files, *files]


async def detach_all(messages: Sequence[dict[str, Any]], detacher: Detacher) -> Imported:
    """Messages with their long files beside them. Raises InvalidRequest and TooLarge."""
    if has_long_data(messages, LARGE_BYTES):
        return await asyncio.to_thread(_detach_all, messages, detacher)
    return _detach_all(messages, detacher)


def _detach_all(messages: Iterable[dict[str, Any]], detacher: Detacher) -> Imported:
    made, files = [], list[Artifact]()
    for message in messages:
        detached, found = detacher.detach(message)
        made.append(detached)
        files += found
    return made, files


def _import(posted: Posted) -> list[dict[str, Any]]:
    messages = [*_ui_messages(map(_decoded, posted.history))]
    at = max((at for at, message in enumerate(messages) if message["role"] == "user"), default=None)
    if at is not None and posted.user is not None:
        messages[at] = posted.user
    return with_unique_calls(messages)


def _ui_messages(messages: Iterable[Mapping[str, Any]]) -> Iterable[dict[str, Any]]:
    """Those a transcript keeps: a client's word counts for nothing as a system's or a developer's."""
    seen: set[str] = set()
    for message in messages:
        if message.get("role") not in _ROLES:
            continue
        shaped = to_ui_message(message)
        if shaped["id"] not in seen:
            seen.add(shaped["id"])
            yield shaped
