"""
Files in messages: check the data of image, audio, video and document parts, and move long data out of messages. No I/O.

Data that is moved out becomes an `Artifact`, stored beside the session's log. The part then refers to it by URL.
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

from durable_chat.config.settings import Settings
from durable_chat.errors import InvalidRequest, TooLarge
from durable_chat.transcripts.file_names import name_of

ARTIFACT_ROUTE = "/api/chat-artifact"

MEDIA_KINDS = frozenset({"image", "audio", "video", "document"})
"""The part types that have a source."""

FILES_MAX = 32
"""Maximum files of one message: more than people attach. Each file is a separate write."""

MEDIA_TYPE_CHARS_MAX = 200
"""Real media types are a tenth as long. The type is stored with the file and sent as a header."""

SLICE_CHARS = 1024 * 1024
"""Characters decoded in one step (about 1 ms), so that the event loop is not blocked. A multiple of four."""

_TOKEN = r"[A-Za-z0-9!#$&^_.+-]+"
_MEDIA_TYPE = re.compile(rf'{_TOKEN}/{_TOKEN}(?:[ \t]*;[ \t]*{_TOKEN}=(?:{_TOKEN}|"[ !#-\[\]-~]*"))*')
_ARTIFACT_ID = re.compile(r"[0-9a-f]{64}")
_BASE64_MARK = ";base64"


@dataclass(frozen=True, slots=True)
class Artifact:
    """A file of a session. `id` is the SHA-256 of its bytes in hex, so identical files are one artifact."""

    id: str
    media_type: str
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Detacher:
    """
    Move files of more than `min_bytes` out of the messages of one session. `root_path` is where the chat is mounted.
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
        Return the message with URLs in place of long data, and the artifacts at those URLs. Raises InvalidRequest for
        invalid data or an invalid media type, and TooLarge.
        """
        made = [self._part(part) for part in message["parts"]]
        files = [artifact for _, artifact in made if artifact is not None]
        if len(files) > FILES_MAX:
            raise TooLarge(f"A message may contain at most {FILES_MAX} files.", code="too_many_files")
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
        return TooLarge(f"A file may have at most {self.max_bytes} bytes.", code="artifact_too_large")

    def url_of(self, artifact_id: str, name: str | None = None) -> str:
        """Return the URL of an artifact. Browsers save the file under `name`."""
        address = f"{self.root_path}{ARTIFACT_ROUTE}?id={quote(self.session_id, safe='')}&artifact={artifact_id}"
        return f"{address}&name={quote(name, safe='')}" if name else address


def data_source(part: Mapping[str, Any]) -> dict[str, Any] | None:
    """
    Return the source of a part that contains its data as base64 or in a `data:` URL. Return None for any other part.
    """
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
    """Return the media type and the base64 data of a `data:` URL (RFC 2397). Raises InvalidRequest."""
    head, comma, value = url[5:].partition(",")
    if not comma:
        raise InvalidRequest("A data: URL must have a comma before its data.", code="bad_data")
    is_base64 = head.lower().endswith(_BASE64_MARK)
    media_type = head[: -len(_BASE64_MARK)] if is_base64 else head
    if not is_base64:
        value = base64.b64encode(unquote_to_bytes(value)).decode()
    return media_type or "text/plain", value


def check_media_type(value: Any) -> str:
    """Return a valid media type (RFC 9110 section 8.3.1). Raises InvalidRequest for any other value."""
    if not isinstance(value, str) or len(value) > MEDIA_TYPE_CHARS_MAX or not _MEDIA_TYPE.fullmatch(value):
        raise InvalidRequest("A file needs a mimeType like image/png.", code="bad_media_type")
    return value


def decode_base64(text: str) -> bytes:
    """
    Decode base64. Line breaks are ignored, and padding may be missing. Call it in a thread for long data. Raises
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
    except ValueError as error:  # includes binascii.Error and non-ASCII text
        raise InvalidRequest("A file's data is not valid base64.", code="bad_data") from error
    return bytes(data)


def encode_base64(data: bytes) -> str:
    """Encode base64 in slices. Call it in a thread for long data."""
    step = SLICE_CHARS // 4 * 3
    return "".join(base64.b64encode(data[at : at + step]).decode() for at in range(0, len(data), step))


def hash_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def check_artifact_id(value: str | None) -> str | None:
    """Return the id if it has the form of an artifact id, otherwise None."""
    return value if value is not None and _ARTIFACT_ID.fullmatch(value) else None


def artifact_in(source: Any) -> tuple[str, str] | None:
    """
    Return the session and artifact ids in a part's source, wherever the chat is mounted. Return None for any other
    source.
    """
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
    """Whether two lists of parts have the same content. Files are compared by their bytes, wherever they are stored."""
    if one == other:
        return True
    if not isinstance(one, list) or not isinstance(other, list) or len(one) != len(other):
        return False
    return all(a == b or _fingerprint(a) == _fingerprint(b) for a, b in zip(one, other, strict=True))


def _fingerprint(part: Any) -> Any:
    """Return the part with the hash of its file in place of its data or URL."""
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
    """Whether the messages contain more than `chars` characters of data, so that they should be decoded in a thread."""
    for message in messages:
        for part in message["parts"]:
            source = part.get("source")
            value = source.get("value") if isinstance(source, Mapping) else None
            chars -= len(value) if isinstance(value, str) else 0
    return chars < 0
