"""
The files in users' messages, for an application's own models: their bytes or URLs, or a sentence that replaces them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from durable_chat.errors import InvalidRequest
from durable_chat.models.dialogues import Answered, Asked, text_in
from durable_chat.protocol.messages import normalize_content_type
from durable_chat.transcripts.attachments import MEDIA_KINDS, artifact_in, data_source

FILES_BYTES_MAX = 32 * 1024 * 1024
"""Maximum size of all files of a conversation, newest first: about what providers accept in one request."""

GONE = "which is no longer available"
UNREADABLE = "which you cannot read"
LEFT_OUT = "which is omitted because there are too many newer files"

ReadFile = Callable[[Mapping[str, Any]], Awaitable[bytes | None]]


@dataclass(frozen=True, slots=True)
class File:
    """
    A file that a user attached. `kind` is image, audio, video or document. It has `data` or, if it is external, a
    `url`.
    """

    kind: str
    media_type: str
    data: bytes | None = None
    url: str | None = None

    @property
    def extension(self) -> str:
        return self.media_type.rpartition("/")[2].partition("+")[0].removeprefix("x-")


Said = str | File


async def read_asked(entries: Sequence[Asked | Answered], read: ReadFile) -> dict[int, list[Said]]:
    """Return the text and files of each user message in order, by the message's position."""
    room = FILES_BYTES_MAX
    found: dict[int, list[Said]] = {}
    for at in reversed(range(len(entries))):
        entry = entries[at]
        if isinstance(entry, Answered):
            continue
        said: list[Said] = []
        for part in entry.parts:
            if part.get("type") == "text":
                said.append(text_in(part))
            elif part.get("type") in MEDIA_KINDS:
                said.append(await _file(part, read, room))
                file = said[-1]
                room -= len(file.data) if isinstance(file, File) and file.data is not None else 0
        found[at] = said
    return found


async def _file(part: Mapping[str, Any], read: ReadFile, room: int) -> Said:
    kind, media_type = str(part["type"]), media_type_of(part)
    source = part.get("source")
    url = source.get("value") if isinstance(source, Mapping) and source.get("type") == "url" else None
    if isinstance(url, str) and url.startswith(("https://", "http://")) and artifact_in(source) is None:
        return File(kind, media_type or _ASSUMED[kind], url=url)
    data = await read(part) if room > 0 else None
    if data is None:
        return told(part, GONE if room > 0 else LEFT_OUT)
    return File(kind, media_type or _ASSUMED[kind], data) if len(data) <= room else told(part, LEFT_OUT)


_ASSUMED = {"image": "image/png", "audio": "audio/mpeg", "video": "video/mp4", "document": "application/octet-stream"}


def media_type_of(part: Mapping[str, Any]) -> str | None:
    try:
        source = data_source(part) or part.get("source")
    except InvalidRequest:
        return None
    value = source.get("mimeType") if isinstance(source, Mapping) else None
    return normalize_content_type(value) if isinstance(value, str) else None


def told(part: Mapping[str, Any], why: str) -> str:
    """Return the sentence that replaces a file."""
    return sentence(str(part["type"]), media_type_of(part), why)


def sentence(kind: str, media_type: str | None, why: str) -> str:
    name = {"audio": "an audio file", "document": "a document", "image": "an image"}.get(kind, "a video")
    named = f" ({media_type})" if media_type and len(media_type) < 100 else ""
    return f"(Here the user attached {name}{named}, {why}.)"
