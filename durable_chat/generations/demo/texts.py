"""
The demo's texts: transcripts of its own speech, and summaries of a text's most important sentences.
"""

from __future__ import annotations

import asyncio
import io
import re
import uuid
import wave
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from durable_chat.generations.demo.images import should_fail
from durable_chat.generations.demo.speech import text_in
from durable_chat.generations.inputs import SummaryInput, TranscriptionInput
from durable_chat.generations.limits import SummaryLimits, TranscriptionLimits
from durable_chat.generations.media import Media
from durable_chat.generations.results import Progress, Segment, SummaryResult, TranscriptionResult, Usage
from durable_chat.models.base import ProviderError

STEPS = 4
SENTENCES_MAX = 3
"""Sentences of a summary, unless the request gives its length in words."""

WORD_CHARS_MIN = 4
"""Shorter words are mostly articles and prepositions, which every sentence has."""

_SENTENCE = re.compile(r"[^.!?\n]+(?:[.!?]+|\n|$)")


@dataclass(frozen=True, slots=True)
class DemoTranscription:
    """
    Writes down the text that a WAV file of the demo carries, and describes other audio. It takes `delay_s` seconds and
    reports progress.
    """

    delay_s: float = 1.0
    model: ClassVar[str] = "demo"
    provider: ClassVar[str] = "demo"
    limits: ClassVar[TranscriptionLimits] = TranscriptionLimits(formats=("json", "text", "verbose_json"))

    async def generate(self, request: TranscriptionInput, /) -> AsyncIterator[Progress | TranscriptionResult]:
        for step in range(1, STEPS + 1):
            await asyncio.sleep(self.delay_s / STEPS)
            yield Progress(100 * step // STEPS)
        audio = request.audio
        duration_s = duration_of(audio)
        text = text_in(audio.data) if audio.media_type == "audio/wav" else None
        if text is None:
            length = "" if duration_s is None else f"{duration_s:g} seconds, "
            text = f"The demo cannot hear. The audio is {audio.media_type} ({length}{len(audio.data):,} bytes)."
        language = request.language or "en"
        segments = _segments(text, duration_s)
        yield TranscriptionResult(f"stt-{uuid.uuid4().hex}", self.model, text, language, duration_s, segments)


def duration_of(audio: Media) -> float | None:
    """Return the length of a WAV file in seconds; None for other or damaged audio."""
    try:
        with wave.open(io.BytesIO(audio.data)) as wav:
            frames, rate_hz = wav.getnframes(), wav.getframerate()
            return float(round(frames / rate_hz, 3))
    except (wave.Error, EOFError, ZeroDivisionError):
        return None


def _segments(text: str, duration_s: float | None) -> tuple[Segment, ...] | None:
    """Return the sentences with times in proportion to their lengths."""
    if duration_s is None:
        return None
    pieces = sentences_of(text)
    total = sum(map(len, pieces)) or 1
    ends = [sum(map(len, pieces[: at + 1])) * duration_s / total for at in range(len(pieces))]
    starts = [0.0, *ends]
    return tuple(Segment(at, round(starts[at], 3), round(ends[at], 3), piece) for at, piece in enumerate(pieces))


@dataclass(frozen=True, slots=True)
class DemoSummary:
    """
    Summarizes a text by its own sentences: those with the most frequent words, and with the words of `focus`. It writes
    a word every `delay_s` seconds. A text that begins with the word `fail` fails halfway.
    """

    delay_s: float = 0.03
    model: ClassVar[str] = "demo"
    provider: ClassVar[str] = "demo"
    limits: ClassVar[SummaryLimits] = SummaryLimits()

    async def generate(self, request: SummaryInput, /) -> AsyncIterator[str | SummaryResult]:
        summary = await asyncio.to_thread(summary_of, request)
        pieces = re.findall(r"\S+\s*", summary)
        fails = should_fail(request.text[:5])
        for at, piece in enumerate(pieces):
            await asyncio.sleep(self.delay_s)
            if fails and at >= len(pieces) // 2:
                raise ProviderError("The demo failed halfway, because the text said so.", "demo_failure")
            yield piece
        read, written = len(request.text.split()), len(pieces)
        usage = Usage(read, written, read + written)
        yield SummaryResult(f"sum-{uuid.uuid4().hex}", self.model, summary, usage)


def summary_of(request: SummaryInput) -> str:
    """Return the text's most important sentences in their order, in the style that the request names."""
    sentences = sentences_of(request.text)
    counts = Counter(word for sentence in sentences for word in _words(sentence))
    for topic in request.focus:
        counts.update({word: len(sentences) for word in _words(topic)})
    scores = [sum(counts[word] for word in _words(sentence)) / (1 + len(sentence.split())) for sentence in sentences]
    best = sorted(range(len(sentences)), key=lambda at: -scores[at])[
        : 1 if request.style == "concise" else SENTENCES_MAX
    ]
    words = [sentences[at] for at in sorted(best)]
    if request.words_max is not None:
        words = _cut(words, request.words_max)
    return "\n".join(f"- {line}" for line in words) if request.style == "bullet-points" else " ".join(words)


def sentences_of(text: str) -> list[str]:
    return [sentence.strip() for sentence in _SENTENCE.findall(text) if sentence.strip()]


def _words(text: str) -> list[str]:
    return [word for word in re.findall(r"\w+", text.lower()) if len(word) >= WORD_CHARS_MIN]


def _cut(sentences: Sequence[str], words_max: int) -> list[str]:
    """Return as much of the sentences as has so many words."""
    kept = []
    for sentence in sentences:
        words = sentence.split()[:words_max]
        words_max -= len(words)
        if words:
            kept.append(" ".join(words))
    return kept
