"""
Files of a conversation as Anthropic takes them: their bytes where it can read them, a sentence about them where not.

One file that is refused would end this turn and every later one, since the whole conversation is sent each time. So what
cannot be read is told of in words, and the oldest files are left out where all of them would be too much.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from durable_chat.chat.attachments import MEDIA_KINDS, artifact_in, data_source, encode_base64
from durable_chat.chat.providers.base import Turn
from durable_chat.errors import InvalidRequest
from durable_chat.protocol.messages import normalize_content_type

IMAGE_CHARS_MAX = 5 * 1024 * 1024
"""Of an image in base64: what the API takes on every platform; the direct one may take more."""

FILES_CHARS_MAX = 24 * 1024 * 1024
"""Of all files of a request in base64: Anthropic takes 32 MB, words and tools included."""

TEXT_BYTES_MAX = 512 * 1024
"""Of a document of text: about 130,000 tokens, more than half of what a model reads at once."""

FILES_MAX = 100
"""Images and documents of one request."""

LARGE_BYTES = 256 * 1024
"""From here on a file is encoded in a thread."""

PDF = "application/pdf"
IMAGE_TYPES = frozenset({"image/jpeg", "image/png", "image/gif", "image/webp"})
_UNREADABLE = "which you cannot read"
_GONE = "which is not there any more"
_TOO_LARGE = "which is too large for you to read"
_LEFT_OUT = "which is left out here, since there are too many files after it"


@dataclass(slots=True)
class _Room:
    """What still fits into the request. Mutable."""

    chars: int = FILES_CHARS_MAX
    files: int = FILES_MAX


async def with_files(turn: Turn) -> tuple[Mapping[str, Any], ...]:
    """The turn's messages with the bytes of their files, the newest first while there is room."""
    room = _Room()
    made: list[Mapping[str, Any]] = []
    for message in reversed(turn.messages):
        parts = message.get("parts")
        if message.get("role") == "user" and isinstance(parts, list | tuple):
            given = [await _with_file(turn, part, room) for part in reversed(parts)]
            message = {**message, "parts": given[::-1]}
        made.append(message)
    return tuple(made[::-1])


async def _with_file(turn: Turn, part: Any, room: _Room) -> Any:
    if not isinstance(part, Mapping) or part.get("type") not in MEDIA_KINDS:
        return part
    source = part.get("source")
    media_type = _media_type(part)
    readable = _readable(str(part["type"]), media_type)
    if _is_outside(part):
        # What it is given by address it reads itself; of documents only PDF.
        known = media_type is None or media_type == PDF or media_type in IMAGE_TYPES
        return part if readable and known else _told(part, _UNREADABLE)
    if not readable or not isinstance(source, Mapping):
        return _told(part, _UNREADABLE)
    data = await turn.artifact(part)
    if data is None:
        return _told(part, _GONE if artifact_in(source) else _UNREADABLE)
    kind = _kind_of(data) if part["type"] == "image" or media_type == PDF else _text_type(data)
    if kind is None or (part["type"] == "image") != (kind in IMAGE_TYPES):
        return _told(part, _UNREADABLE)
    return await _given(part, kind, data, room)


async def _given(part: Mapping[str, Any], kind: str, data: bytes, room: _Room) -> Mapping[str, Any]:
    chars = (len(data) + 2) // 3 * 4
    chars_max = IMAGE_CHARS_MAX if kind in IMAGE_TYPES else FILES_CHARS_MAX
    if chars > chars_max or (kind == "text/plain" and len(data) > TEXT_BYTES_MAX):
        return _told(part, _TOO_LARGE)
    if chars > room.chars or not room.files:
        room.chars = 0  # nothing older either, or the model would be given a conversation with holes
        return _told(part, _LEFT_OUT)
    room.chars -= chars
    room.files -= 1
    value = await asyncio.to_thread(encode_base64, data) if len(data) > LARGE_BYTES else encode_base64(data)
    return {**part, "source": {"type": "data", "value": value, "mimeType": kind}}


def _media_type(part: Mapping[str, Any]) -> str | None:
    try:
        source = data_source(part) or part.get("source")
    except InvalidRequest:
        return None
    value = source.get("mimeType") if isinstance(source, Mapping) else None
    return normalize_content_type(value) if isinstance(value, str) else None


def _readable(kind: str, media_type: str | None) -> bool:
    """Whether it is worth a look: an image, a PDF or a text."""
    if kind == "image":
        return media_type is None or media_type.startswith("image/")
    return kind == "document" and (media_type is None or media_type == PDF or media_type.startswith("text/"))


def _is_outside(part: Mapping[str, Any]) -> bool:
    source = part.get("source")
    value = source.get("value") if isinstance(source, Mapping) and source.get("type") == "url" else None
    return isinstance(value, str) and value.startswith("https://") and artifact_in(source) is None


def _kind_of(data: bytes) -> str | None:
    """What the bytes are, whatever was said of them: a wrong type is refused."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if data.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "image/gif"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    return PDF if data.startswith(b"%PDF-") else None


def _text_type(data: bytes) -> str | None:
    try:
        return "text/plain" if data[: TEXT_BYTES_MAX + 1].decode(errors="strict").strip() else None
    except UnicodeDecodeError:
        return None if len(data) <= TEXT_BYTES_MAX else "text/plain"  # cut in a letter, or too large anyway


def _told(part: Mapping[str, Any], why: str) -> dict[str, Any]:
    media_type = _media_type(part)
    kind = {"audio": "an audio file", "document": "a document", "image": "an image"}.get(str(part["type"]), "a video")
    named = f" ({media_type})" if media_type and len(media_type) < 100 else ""
    return {"type": "text", "content": f"(Here the user attached {kind}{named}, {why}.)"}
