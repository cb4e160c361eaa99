"""
Prepare the files of a conversation for Anthropic: their bytes if it can read them, otherwise a sentence about them.

The whole conversation is sent each time, so one rejected file would make this turn and every later one fail. Unreadable
files are therefore described in words, and the oldest files are left out when all of them would be too much.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from durable_chat.models.attached import GONE, LEFT_OUT, UNREADABLE, media_type_of, told
from durable_chat.models.base import Turn
from durable_chat.models.pictures import picture_of
from durable_chat.models.providers.files import Messages, is_file, user_parts
from durable_chat.transcripts.attachments import artifact_in, encode_base64

IMAGE_CHARS_MAX = 5 * 1024 * 1024
"""Maximum size of an image in base64: the limit that holds on every platform. The direct API may accept more."""

IMAGE_SIDE_PX_MAX = 8000
"""Maximum width and height of an image. Larger images are rejected."""

FILES_CHARS_MAX = 24 * 1024 * 1024
"""Maximum size of all files of a request in base64. Anthropic accepts 32 MB, including text and tools."""

FILES_MAX = 20
"""Maximum files of a request. With more images, none of them may be larger than 2000 pixels."""

TEXT_BYTES_MAX = 512 * 1024
"""Maximum size of a text document: about 130,000 tokens, more than half of a model's context."""

LARGE_BYTES = 256 * 1024
"""Files larger than this are encoded in a thread."""

PDF = "application/pdf"
TEXT = "text/plain"
IMAGE_TYPES = frozenset({"image/jpeg", "image/png", "image/gif", "image/webp"})
_TOO_LARGE = "which is too large for you to read"


@dataclass(slots=True)
class _Room:
    """The remaining space in the request. Mutable."""

    chars: int = FILES_CHARS_MAX
    files: int = FILES_MAX

    def take(self, chars: int) -> bool:
        """
        Take space for one more file, and return whether it fits. After one file does not fit, no older file is
        included, so that there are no gaps.
        """
        if not self.files or chars > self.chars:
            self.files = 0
            return False
        self.files -= 1
        self.chars -= chars
        return True


async def with_files(turn: Turn) -> Messages:
    """Return the turn's messages with the bytes of their files, newest first while there is space."""
    room = _Room()
    made: list[Mapping[str, Any]] = []
    for message in reversed(turn.messages):
        parts = user_parts(message)
        if parts is not None:
            given = [await _with_file(turn, part, room) if is_file(part) else part for part in reversed(parts)]
            message = {**message, "parts": given[::-1]}
        made.append(message)
    return tuple(made[::-1])


async def _with_file(turn: Turn, part: Mapping[str, Any], room: _Room) -> Mapping[str, Any]:
    is_image, media_type = part["type"] == "image", media_type_of(part)
    if not _may_be_read(str(part["type"]), media_type):
        return _told(part, UNREADABLE)
    if _is_outside(part):
        # Anthropic fetches the URL itself. It accepts only PDF documents from URLs.
        known = IMAGE_TYPES if is_image else {PDF}
        if media_type is not None and media_type not in known:
            return _told(part, UNREADABLE)
        return part if room.take(0) else _told(part, LEFT_OUT)
    if not room.files:
        return _told(part, LEFT_OUT)
    data = await turn.artifact(part)
    if data is None:
        return _told(part, GONE if artifact_in(part.get("source")) else UNREADABLE)
    kind = _kind_of(data, is_image=is_image, media_type=media_type)
    if kind is None:
        return _told(part, UNREADABLE)
    return await _given(part, kind, data, room)


async def _given(part: Mapping[str, Any], kind: str, data: bytes, room: _Room) -> Mapping[str, Any]:
    chars = (len(data) + 2) // 3 * 4
    if _is_too_large(kind, data, chars):
        return _told(part, _TOO_LARGE)
    if not room.take(chars):
        return _told(part, LEFT_OUT)
    value = await asyncio.to_thread(encode_base64, data) if len(data) > LARGE_BYTES else encode_base64(data)
    return {**part, "source": {"type": "data", "value": value, "mimeType": kind}}


def _is_too_large(kind: str, data: bytes, chars: int) -> bool:
    if kind == TEXT:
        return len(data) > TEXT_BYTES_MAX
    picture = picture_of(data)
    if picture is None:
        return chars > FILES_CHARS_MAX
    return chars > IMAGE_CHARS_MAX or max(picture.width, picture.height) > IMAGE_SIDE_PX_MAX


def _may_be_read(kind: str, media_type: str | None) -> bool:
    """Whether the file may be readable: an image, a PDF or a text."""
    if kind == "image":
        return media_type is None or media_type.startswith("image/")
    return kind == "document" and (media_type is None or media_type == PDF or media_type.startswith("text/"))


def _is_outside(part: Mapping[str, Any]) -> bool:
    source = part.get("source")
    value = source.get("value") if isinstance(source, Mapping) and source.get("type") == "url" else None
    return isinstance(value, str) and value.startswith("https://") and artifact_in(source) is None


def _kind_of(data: bytes, *, is_image: bool, media_type: str | None) -> str | None:
    """Return the actual type of the bytes, whatever type was declared. Anthropic rejects a wrong type."""
    if is_image:
        picture = picture_of(data)
        return picture.media_type if picture is not None else None
    if data.startswith(b"%PDF-"):
        return PDF
    return TEXT if media_type != PDF and _is_text(data) else None


def _is_text(data: bytes) -> bool:
    if len(data) > TEXT_BYTES_MAX:
        return True  # it is too large anyway
    try:
        return bool(data.decode().strip())
    except UnicodeDecodeError:
        return False


def _told(part: Mapping[str, Any], why: str) -> dict[str, Any]:
    return {"type": "text", "content": told(part, why)}
