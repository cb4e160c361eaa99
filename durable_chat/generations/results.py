"""
Results of generations. Each one knows its files and its JSON form, which is the form of TanStack AI.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from durable_chat.generations.media import File, Media
from durable_chat.transcripts.chunks import iso_time

Status = Literal["pending", "processing", "completed", "failed"]

_NO_URLS: Mapping[str, str] = {}


@dataclass(frozen=True, slots=True)
class Usage:
    """The tokens that a generation used, as its provider counts them."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int

    def as_json(self) -> dict[str, int]:
        return {
            "promptTokens": self.prompt_tokens,
            "completionTokens": self.completion_tokens,
            "totalTokens": self.total_tokens,
        }


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a generation is: 0 to 100, and a sentence for people."""

    progress: float
    message: str | None = None

    def as_json(self) -> dict[str, Any]:
        return {"progress": self.progress} | _given(message=self.message)


@dataclass(frozen=True, slots=True)
class GeneratedImage:
    """A generated image: its file, or the provider's address of it."""

    media: Media | None = None
    url: str | None = None
    revised_prompt: str | None = None


@dataclass(frozen=True, slots=True)
class ImageResult:
    """Generated images. A `url` in an image is the provider's and may expire."""

    id: str
    model: str
    images: tuple[GeneratedImage, ...]
    usage: Usage | None = None

    def files(self) -> tuple[File, ...]:
        """Return the files to keep. The path of one is `images[0]`, `images[1]`, …"""
        named = ((f"images[{at}]", image.media) for at, image in enumerate(self.images))
        return tuple(File(path, media) for path, media in named if media is not None)

    def as_json(self, urls: Mapping[str, str] = _NO_URLS) -> dict[str, Any]:
        """Return the result for a client: a file whose path is in `urls` as its URL, any other one as base64."""
        return {
            "id": self.id,
            "model": self.model,
            "images": [_image(image, urls.get(f"images[{at}]")) for at, image in enumerate(self.images)],
        } | _given(usage=self.usage)


@dataclass(frozen=True, slots=True)
class SpeechResult:
    """Generated speech. `duration_s` is the length of the audio."""

    id: str
    model: str
    audio: Media
    format: str
    duration_s: float | None = None
    usage: Usage | None = None

    def files(self) -> tuple[File, ...]:
        """Return the file to keep. Its path is `audio`."""
        return (File("audio", self.audio),)

    def as_json(self, urls: Mapping[str, str] = _NO_URLS) -> dict[str, Any]:
        """Return the result for a client. `audio` is empty when the file is in `urls`, as in a restored result."""
        return {
            "id": self.id,
            "model": self.model,
            "audio": "" if "audio" in urls else self.audio.base64(),
            "format": self.format,
            "contentType": self.audio.media_type,
        } | _given(duration=self.duration_s, usage=self.usage)


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of a transcript and its place in the audio, in seconds."""

    id: int
    start: float
    end: float
    text: str
    speaker: str | None = None

    def as_json(self) -> dict[str, Any]:
        piece = {"id": self.id, "start": self.start, "end": self.end, "text": self.text}
        return piece | _given(speaker=self.speaker)


@dataclass(frozen=True, slots=True)
class Word:
    """A word of a transcript and its place in the audio, in seconds."""

    word: str
    start: float
    end: float

    def as_json(self) -> dict[str, Any]:
        return {"word": self.word, "start": self.start, "end": self.end}


@dataclass(frozen=True, slots=True)
class TranscriptionResult:
    """What audio says. `duration_s` is the length of the audio."""

    id: str
    model: str
    text: str
    language: str | None = None
    duration_s: float | None = None
    segments: tuple[Segment, ...] | None = None
    words: tuple[Word, ...] | None = None
    usage: Usage | None = None

    def files(self) -> tuple[File, ...]:
        return ()

    def as_json(self, urls: Mapping[str, str] = _NO_URLS) -> dict[str, Any]:
        return {"id": self.id, "model": self.model, "text": self.text} | _given(
            language=self.language,
            duration=self.duration_s,
            segments=None if self.segments is None else [segment.as_json() for segment in self.segments],
            words=None if self.words is None else [word.as_json() for word in self.words],
            usage=self.usage,
        )


@dataclass(frozen=True, slots=True)
class SummaryResult:
    """A summary. Clients expect its usage, so it is always there; an unknown count is 0."""

    id: str
    model: str
    summary: str
    usage: Usage = Usage(0, 0, 0)

    def files(self) -> tuple[File, ...]:
        return ()

    def as_json(self, urls: Mapping[str, str] = _NO_URLS) -> dict[str, Any]:
        return {"id": self.id, "model": self.model, "summary": self.summary, "usage": self.usage.as_json()}


@dataclass(frozen=True, slots=True)
class VideoJob:
    """A job that a provider has accepted. Its id is everything that is needed to follow it."""

    job_id: str
    model: str

    def as_json(self) -> dict[str, Any]:
        return {"jobId": self.job_id, "model": self.model}


@dataclass(frozen=True, slots=True)
class VideoStatus:
    """
    The state of a job. `progress` is 0 to 100. A completed job has the provider's `url`, unless the adapter has
    `content`; `expires_at` says until when either can be fetched.
    """

    job_id: str
    status: Status
    progress: float | None = None
    error: str | None = None
    url: str | None = None
    expires_at: datetime | None = None
    usage: Usage | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the answer to a question for a job's state."""
        told = _given(url=self.url, expiresAt=_iso(self.expires_at), usage=self.usage)
        return self.event() | told

    def event(self) -> dict[str, Any]:
        """Return the value of a `video:status` chunk."""
        known = _given(progress=self.progress, error=self.error)
        return {"jobId": self.job_id, "status": self.status} | known


@dataclass(frozen=True, slots=True)
class VideoResult:
    """A finished video: its file, or the provider's address of it until `expires_at`."""

    job_id: str
    model: str
    media: Media | None = None
    url: str | None = None
    expires_at: datetime | None = None
    usage: Usage | None = None

    def files(self) -> tuple[File, ...]:
        """Return the file to keep, if there is one. Its path is `video`."""
        return () if self.media is None else (File("video", self.media),)

    def as_json(self, urls: Mapping[str, str] = _NO_URLS) -> dict[str, Any]:
        """Return the result for a client. A file that is in `urls` does not expire with the provider's address."""
        kept = urls.get("video")
        url = kept or self.url or (self.media.data_url() if self.media is not None else None)
        expires = None if kept else _iso(self.expires_at)
        return {"jobId": self.job_id, "status": "completed", "url": url} | _given(expiresAt=expires, usage=self.usage)


Result = ImageResult | SpeechResult | TranscriptionResult | SummaryResult | VideoResult


def _image(image: GeneratedImage, url: str | None) -> dict[str, Any]:
    url = url or (image.url if image.media is None else None)
    source = {"url": url} if url or image.media is None else {"b64Json": image.media.base64()}
    return source | _given(revisedPrompt=image.revised_prompt)


def _iso(time: datetime | None) -> str | None:
    return None if time is None else iso_time(int(time.astimezone(UTC).timestamp() * 1000))


def _given(**values: Any) -> dict[str, Any]:
    """Return the values that are known, in their JSON form."""
    known = {key: value for key, value in values.items() if value is not None}
    return {key: value.as_json() if isinstance(value, Usage) else value for key, value in known.items()}
