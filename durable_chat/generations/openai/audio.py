"""
OpenAI's speech and transcription.
"""

from __future__ import annotations

import uuid
from dataclasses import replace
from typing import Any

from durable_chat.generations.inputs import SpeechInput, TranscriptionInput
from durable_chat.generations.limits import SpeechLimits, TranscriptionLimits
from durable_chat.generations.media import Media
from durable_chat.generations.openai.adapters import OpenAIAdapter
from durable_chat.generations.results import Segment, SpeechResult, TranscriptionResult, Usage, Word

SPEECH_MODEL_DEFAULT = "gpt-4o-mini-tts"
TRANSCRIPTION_MODEL_DEFAULT = "gpt-4o-transcribe"
VOICE_DEFAULT = "alloy"
FORMAT_DEFAULT = "mp3"
WHISPER = "whisper-1"

_TTS_1_VOICES = ("alloy", "ash", "coral", "echo", "fable", "nova", "onyx", "sage", "shimmer")
_VOICES = (*_TTS_1_VOICES, "ballad", "cedar", "marin", "verse")
_MEDIA_TYPES = {
    "mp3": "audio/mpeg",
    "opus": "audio/ogg",
    "aac": "audio/aac",
    "flac": "audio/flac",
    "wav": "audio/wav",
    "pcm": "audio/pcm;rate=24000;channels=1",
}
_HEARD = ("audio/flac", "audio/mp4", "audio/mpeg", "audio/ogg", "audio/wav", "audio/webm", "video/mp4", "video/webm")


class OpenAISpeech(OpenAIAdapter):
    """
    Speech of OpenAI: `gpt-4o-mini-tts`, `tts-1`, `tts-1-hd`, or a model of a compatible server. `gpt-4o-mini-tts` takes
    the model option `instructions`: how to speak.
    """

    def __init__(
        self, model: str = SPEECH_MODEL_DEFAULT, *, key: str | None = None, base_url: str | None = None
    ) -> None:
        super().__init__(model, key=key, base_url=base_url)
        self.limits = speech_limits_of(model)

    async def generate(self, request: SpeechInput, /) -> SpeechResult:
        """Speak a text. Raises ProviderError."""
        kind = request.format or FORMAT_DEFAULT
        asked: dict[str, Any] = {
            "model": self.model,
            "input": request.text,
            "voice": request.voice or VOICE_DEFAULT,
            "response_format": kind,
            **request.options,
        }
        if request.speed is not None:
            asked["speed"] = request.speed
        data = await self.ask(lambda client: client.audio.speech.create(**asked), lambda answer: answer.content)
        return SpeechResult(f"tts-{uuid.uuid4().hex}", self.model, Media(data, _MEDIA_TYPES[kind]), kind)


def speech_limits_of(model: str) -> SpeechLimits:
    """Return what a model takes. The model of another server has voices of its own."""
    if model.startswith("tts-1"):
        return SpeechLimits(voices=_TTS_1_VOICES)
    if model.startswith("gpt-"):
        return SpeechLimits(voices=_VOICES, options={"instructions": None})
    return SpeechLimits()


class OpenAITranscription(OpenAIAdapter):
    """
    Transcription of OpenAI: `gpt-4o-transcribe`, `whisper-1` (with times and subtitles), or a model of a compatible
    server.
    """

    def __init__(
        self, model: str = TRANSCRIPTION_MODEL_DEFAULT, *, key: str | None = None, base_url: str | None = None
    ) -> None:
        super().__init__(model, key=key, base_url=base_url)
        formats = ("json", "text") if model.startswith("gpt-") else ("json", "text", "srt", "verbose_json", "vtt")
        self.limits = TranscriptionLimits(formats=formats, media_types=_HEARD)

    async def generate(self, request: TranscriptionInput, /) -> TranscriptionResult:
        """Write down what the audio says. Raises ProviderError."""
        audio = request.audio
        asked: dict[str, Any] = {
            "model": self.model,
            "file": (f"audio.{audio.extension}", audio.data, audio.media_type),
            "response_format": self._format(request.format),
        }
        asked |= {"language": request.language} if request.language else {}
        asked |= {"prompt": request.prompt} if request.prompt else {}
        is_timed = asked["response_format"] == "verbose_json"

        def read(answer: Any) -> TranscriptionResult:
            text = answer if isinstance(answer, str) else answer.text  # subtitles are plain text
            usage = _usage(getattr(answer, "usage", None))
            made = TranscriptionResult(f"stt-{uuid.uuid4().hex}", self.model, text, request.language, usage=usage)
            return _timed(made, answer) if is_timed else made

        return await self.ask(lambda client: client.audio.transcriptions.create(**asked), read)

    def _format(self, wanted: str | None) -> str:
        """Return what to ask for. Whisper gives times where they are not declined; plain text is the text of JSON."""
        if wanted in ("srt", "vtt", "verbose_json"):
            return wanted
        return "verbose_json" if wanted is None and self.model == WHISPER else "json"


def _timed(made: TranscriptionResult, answer: Any) -> TranscriptionResult:
    """Return the transcript with the language that was heard and the times."""
    return replace(
        made,
        language=made.language or answer.language,
        duration_s=answer.duration,
        segments=_segments(answer.segments),
        words=_words(answer.words),
    )


def _segments(found: Any) -> tuple[Segment, ...] | None:
    if found is None:
        return None
    return tuple(Segment(each.id, each.start, each.end, each.text.strip()) for each in found)


def _words(found: Any) -> tuple[Word, ...] | None:
    return None if found is None else tuple(Word(each.word, each.start, each.end) for each in found)


def _usage(used: Any) -> Usage | None:
    """Return the tokens. Whisper is paid by the second and counts none."""
    if getattr(used, "input_tokens", None) is None:
        return None
    return Usage(used.input_tokens, used.output_tokens, used.total_tokens)
