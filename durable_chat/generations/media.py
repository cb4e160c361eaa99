"""
Files that go into generations and come out of them: bytes with a media type, never base64 until a client needs it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from durable_chat.errors import InvalidRequest, TooLarge
from durable_chat.models.pictures import picture_of
from durable_chat.transcripts.attachments import check_media_type, decode_base64, encode_base64, split_data_url

AUDIO_BYTES_MAX = 25 * 1024 * 1024
"""Maximum size of a file to transcribe: OpenAI's limit, about half an hour of MP3."""

REFERENCE_BYTES_MAX = 20 * 1024 * 1024
"""Maximum size of a picture to start from: as large as a file of a chat message."""

_EXTENSIONS = {
    "audio/aac": "aac",
    "audio/flac": "flac",
    "audio/mp4": "m4a",
    "audio/mpeg": "mp3",
    "audio/ogg": "ogg",
    "audio/opus": "opus",
    "audio/pcm": "pcm",
    "audio/wav": "wav",
    "audio/webm": "webm",
    "image/gif": "gif",
    "image/jpeg": "jpg",
    "image/png": "png",
    "image/webp": "webp",
    "video/mp4": "mp4",
    "video/webm": "webm",
}


@dataclass(frozen=True, slots=True)
class Media:
    """A file: its bytes and its media type."""

    data: bytes = field(repr=False)
    media_type: str

    @property
    def extension(self) -> str:
        """The extension of a file name for this media type, without a dot. Providers read a file's type from it."""
        return _EXTENSIONS.get(self.media_type.partition(";")[0].strip(), "bin")

    def base64(self) -> str:
        """Return the bytes as base64. Call it in a thread for long data."""
        return encode_base64(self.data)

    def data_url(self) -> str:
        """Return a `data:` URL of the file. Call it in a thread for long data."""
        return f"data:{self.media_type};base64,{self.base64()}"


@dataclass(frozen=True, slots=True)
class File:
    """A file of an input or a result, and its place there, for example `images[0]`."""

    path: str
    media: Media


def audio_in(value: Any) -> Media:
    """
    Return the audio of an input: Media, bytes, base64 or a `data:` URL. Raises InvalidRequest for anything else, such
    as the `{}` that JavaScript writes for a File, and TooLarge.
    """
    media_type: str | None = None
    if isinstance(value, Media):
        data, media_type = value.data, value.media_type
    elif isinstance(value, bytes | bytearray):
        data = bytes(value)
    elif isinstance(value, str) and value:
        data, media_type = _decoded(value, AUDIO_BYTES_MAX, "audio")
    else:
        raise InvalidRequest(
            f"audio must be base64 or a data: URL, not {type(value).__name__}. A File or Blob becomes {{}} in JSON: "
            "read it with FileReader.readAsDataURL first.",
            code="invalid_audio",
        )
    if not data:
        raise InvalidRequest("The audio is empty.", code="invalid_audio")
    if len(data) > AUDIO_BYTES_MAX:
        raise _too_large("audio", AUDIO_BYTES_MAX)
    media_type = _audio_type(data) or media_type
    if media_type is None or media_type.partition("/")[0] not in ("audio", "video"):
        raise InvalidRequest(
            "The audio's format is unknown. Send WAV, MP3, M4A, OGG, FLAC or WebM.", code="unknown_format"
        )
    return Media(data, check_media_type(media_type))


def picture_in(part: Any) -> Media:
    """
    Return the picture of an image part with data in it. Raises InvalidRequest for any other value: a URL is never
    fetched, because it could name a host inside this server's network. Raises TooLarge.
    """
    if isinstance(part, Media):
        data = part.data
    else:
        source = part.get("source") if isinstance(part, Mapping) else None
        value = source.get("value") if isinstance(source, Mapping) else None
        if isinstance(value, Media):
            data = value.data
        elif isinstance(source, Mapping) and isinstance(value, str) and _holds_data(source, value):
            data, _ = _decoded(value, REFERENCE_BYTES_MAX, "picture")
        else:
            raise InvalidRequest("A picture must be sent as data, not as a URL.", code="invalid_picture")
    if len(data) > REFERENCE_BYTES_MAX:
        raise _too_large("picture", REFERENCE_BYTES_MAX)
    picture = picture_of(data)
    if picture is None:
        raise InvalidRequest("The picture is not a PNG, JPEG, GIF or WebP file.", code="invalid_picture")
    return Media(data, picture.media_type)


def _holds_data(source: Mapping[str, Any], value: str) -> bool:
    return source.get("type") == "data" or value[:5].lower() == "data:"


def _decoded(value: str, bytes_max: int, name: str) -> tuple[bytes, str | None]:
    """Decode base64 or a `data:` URL. Its length is checked first, so that no large copy is made for nothing."""
    if len(value) > bytes_max // 3 * 4 + 1024:
        raise _too_large(name, bytes_max)
    media_type: str | None = None
    if value[:5].lower() == "data:":
        media_type, value = split_data_url(value)
    return decode_base64(value), media_type


def _too_large(name: str, bytes_max: int) -> TooLarge:
    return TooLarge(f"The {name} may have at most {bytes_max} bytes.", code=f"{name}_too_large")


def _audio_type(data: bytes) -> str | None:
    """Return the media type that the bytes show. Browsers name types in many ways; the bytes do not."""
    if data[:4] == b"RIFF" and data[8:12] == b"WAVE":
        return "audio/wav"
    if data[:4] == b"OggS":
        return "audio/ogg"
    if data[:4] == b"fLaC":
        return "audio/flac"
    if data[:4] == b"\x1a\x45\xdf\xa3":
        return "audio/webm"
    if data[4:8] == b"ftyp":
        return "audio/mp4"
    if data[:3] == b"ID3" or (len(data) > 2 and data[0] == 0xFF and data[1] & 0xE6 in (0xE2, 0xE4, 0xE6)):
        return "audio/mpeg"
    return None
