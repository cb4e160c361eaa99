"""
Files in messages: the data of an image, audio, video or document part, checked, and taken out of the message where it
is long. No I/O.

What is taken out is an `Artifact`, kept beside the session's log, and the part refers to it by its address.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, quote, unquote_to_bytes, urlsplit

from durable_chat.config import Settings
from durable_chat.errors import InvalidRequest, TooLarge
from durable_chat.transcripts.file_names import name_of

ARTIFACT_ROUTE = "/api/chat-artifact"

MEDIA_KINDS = frozenset({"image", "audio", "video", "document"})
"""The parts of a message that have a source."""

FILES_MAX = 32
"""Files of one message: more than people attach, and each is a write of its own."""

MEDIA_TYPE_CHARS_MAX = 200
"""Real ones have a tenth of that; it is kept with the file and sent as a header."""

SLICE_CHARS = 1024 * 1024
"""What is decoded in one go (about 1 ms), so that the event loop gets its turns. A multiple of four."""

_TOKEN = r"[A-Za-z0-9!#$&^_.+-]+"
_MEDIA_TYPE = re.compile(rf'{_TOKEN}/{_TOKEN}(?:[ \t]*;[ \t]*{_TOKEN}=(?:{_TOKEN}|"[ !#-\[\]-~]*"))*')
_ARTIFACT_ID = re.compile(r"[0-9a-f]{64}")
_BASE64_MARK = ";base64"


@dataclass(frozen=True, slots=True)
class Artifact:
    """A file of a session. `id` is the SHA-256 of its bytes in hex, so that the same file is the same artifact."""

    id: str
    media_type: str
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Detacher:
    """
    Takes the files out of the messages of one session: those of more than `min_bytes`. `root_path` is where the chat
    is mounted.
    """

    session_id: str
    root_path: str = ""
    min_bytes: int = 64 * 1024
    max_bytes: int = 20 * 1024 * 1024

    @classmethod
    def of(cls, settings: Settings, session_id: str, root_path: str) -> Detacher:
        return cls(session_id, root_path.rstrip("/"), settings.artifact_min_bytes, settings.artifact_max_bytes)

    def detach(self, message: Mapping[str, Any]) -> tuple[dict[str, Any], list[Artifact]]:
        """
        The message with addresses in place of long data, and what is at those addresses. Raises InvalidRequest for
        data that is none, and TooLarge.
        """
        made = [self._part(part) for part in message["parts"]]
        files = [artifact for _, artifact in made if artifact is not None]
        if len(files) > FILES_MAX:
            raise TooLarge(f"A message holds at most {FILES_MAX} files.", code="too_many_files")
        return {**message, "parts": [part for part, _ in made]}, files

    def _part(self, part: dict[str, Any]) -> tuple[dict[str, Any], Artifact | None]:
        source = data_source(part)
        if source is None:
            return part, None
        media_type = check_media_type(source["mimeType"])
        if len(source["value"]) // 4 * 3 > self.max_bytes + 3:
            raise self._too_large()
        data = decode_base64(source["value"])
        if len(data) > self.max_bytes:
            raise self._too_large()
        if len(data) <= self.min_bytes:
            return {**part, "source": source}, None
        artifact = Artifact(hash_of(data), media_type, data)
        return {**part, "source": {**source, "type": "url", "value": self.url_of(artifact.id, name_of(part))}}, artifact

    def _too_large(self) -> TooLarge:
        return TooLarge(f"A file has at most {self.max_bytes} bytes.", code="artifact_too_large")

    def url_of(self, artifact_id: str, name: str | None = None) -> str:
        """The address; `name` is what the file is saved as from there."""
        address = f"{self.root_path}{ARTIFACT_ROUTE}?id={quote(self.session_id, safe='')}&artifact={artifact_id}"
        return f"{address}&name={quote(name, safe='')}" if name else address


def data_source(part: Mapping[str, Any]) -> dict[str, Any] | None:
    """The source of a part that holds its data itself, as base64, also where it is a `data:` URL; None of another."""
    source = part.get("source")
    if part.get("type") not in MEDIA_KINDS or not isinstance(source, Mapping):
        return None
    value = source.get("value")
    if source.get("type") == "data" and isinstance(value, str):
        return {"mimeType": None, **source}
    if source.get("type") == "url" and isinstance(value, str) and value[:5].lower() == "data:":
        media_type, data = split_data_url(value)
        return {**source, "type": "data", "value": data, "mimeType": source.get("mimeType") or media_type}
    return None


def split_data_url(url: str) -> tuple[str, str]:
    """The media type and the data, as base64, of a `data:` URL (RFC 2397). Raises InvalidRequest."""
    head, comma, value = url[5:].partition(",")
    if not comma:
        raise InvalidRequest("A data: URL has a comma before its data.", code="bad_data")
    is_base64 = head.lower().endswith(_BASE64_MARK)
    media_type = head[: -len(_BASE64_MARK)] if is_base64 else head
    if not is_base64:
        value = base64.b64encode(unquote_to_bytes(value)).decode()
    return media_type or "text/plain", value


def check_media_type(value: Any) -> str:
    """Raises InvalidRequest for what is no media type (RFC 9110 section 8.3.1)."""
    if not isinstance(value, str) or len(value) > MEDIA_TYPE_CHARS_MAX or not _MEDIA_TYPE.fullmatch(value):
        raise InvalidRequest("A file needs a mimeType like image/png.", code="bad_media_type")
    return value


def decode_base64(text: str) -> bytes:
    """
    The bytes; line ends are passed over, and the padding may be missing. In a thread where it is long. Raises
    InvalidRequest.
    """
    text = text.replace("\n", "").replace("\r", "") if "\n" in text[:MEDIA_TYPE_CHARS_MAX] else text
    body = text.rstrip("=")
    data = bytearray()
    try:
        if len(body) % 4 == 1 or len(text) - len(body) not in (0, -len(body) % 4):
            raise binascii.Error
        for at in range(0, len(body), SLICE_CHARS):
            piece = body[at : at + SLICE_CHARS]
            if "=" in piece:
                raise binascii.Error
            data += binascii.a2b_base64(piece + "=" * (-len(piece) % 4), strict_mode=True)
    except ValueError as error:  # binascii.Error is one, and so is what is not ASCII
        raise InvalidRequest("A file's data is not base64.", code="bad_data") from error
    return bytes(data)


def encode_base64(data: bytes) -> str:
    """In slices, too. In a thread where it is long."""
    step = SLICE_CHARS // 4 * 3
    return "".join(base64.b64encode(data[at : at + step]).decode() for at in range(0, len(data), step))


def hash_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def check_artifact_id(value: str | None) -> str | None:
    """The id, where it can be one."""
    return value if value is not None and _ARTIFACT_ID.fullmatch(value) else None


def artifact_in(source: Any) -> tuple[str, str] | None:
    """The session and the artifact that a part's source refers to, wherever the chat is mounted; None of another."""
    value = source.get("value") if isinstance(source, Mapping) and source.get("type") == "url" else None
    if not isinstance(value, str) or ARTIFACT_ROUTE not in value:
        return None
    try:
        parts = urlsplit(value)
        query = parse_qs(parts.query, max_num_fields=8)
    except ValueError:
        return None
    sessions, ids = query.get("id", []), query.get("artifact", [])
    if not parts.path.endswith(ARTIFACT_ROUTE) or len(sessions) != 1 or len(ids) != 1:
        return None
    return (sessions[0], ids[0]) if check_artifact_id(ids[0]) else None


def same_parts(one: Any, other: Any) -> bool:
    """Whether parts say the same: a file is the same by its bytes, wherever they are."""
    if one == other:
        return True
    if not isinstance(one, list) or not isinstance(other, list) or len(one) != len(other):
        return False
    return all(a == b or _fingerprint(a) == _fingerprint(b) for a, b in zip(one, other, strict=True))


def _fingerprint(part: Any) -> Any:
    """The part with the hash of its file in the place of its data or its address."""
    if not isinstance(part, Mapping) or part.get("type") not in MEDIA_KINDS:
        return part
    try:
        source = data_source(part)
        found = hash_of(decode_base64(source["value"])) if source is not None else None
    except InvalidRequest:
        return part
    if source is None:
        source = part.get("source")
        found = (artifact_in(source) or (None, None))[1]
    if found is None:
        return part
    assert isinstance(source, Mapping)
    return {**part, "source": {**source, "type": "artifact", "value": found}}


def has_long_data(messages: Sequence[Mapping[str, Any]], chars: int) -> bool:
    """Whether there are so many characters of data in the messages that they are decoded in a thread."""
    for message in messages:
        for part in message["parts"]:
            source = part.get("source")
            value = source.get("value") if isinstance(source, Mapping) else None
            chars -= len(value) if isinstance(value, str) else 0
    return chars < 0
