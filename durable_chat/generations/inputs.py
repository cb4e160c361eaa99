"""
Inputs of generations. `parse` reads one from a client's JSON body, in TanStack AI's names.

Parsing and checking raise InvalidRequest (400) for a value of the wrong type or one that the model does not know, and
TooLarge (413) for one over its limit. Files may be given as Media instead of base64. Unknown fields are ignored.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from durable_chat.errors import InvalidRequest, TooLarge
from durable_chat.generations import limits as checks
from durable_chat.generations.limits import (
    ImageLimits,
    SpeechLimits,
    SummaryLimits,
    TranscriptionLimits,
    VideoLimits,
    refuse,
    shown,
)
from durable_chat.generations.media import File, Media, audio_in, picture_in

PARTS_MAX = 100
"""Limit of the parts of a prompt; their texts and pictures have limits of their own."""

FOCUS_MAX = 50
"""Limit of the topics of a summary: more than anyone lists. Each becomes a line of the model's instructions."""

SPEED_MIN = 0.25
SPEED_MAX = 4.0
"""The range of TanStack AI and OpenAI."""

_NO_URLS: Mapping[str, str] = {}


def _no_options() -> Mapping[str, Any]:
    return {}


@dataclass(frozen=True, slots=True)
class ImageInput:
    """Images to draw. `references` are pictures to start from."""

    prompt: str
    count: int = 1
    size: str | None = None
    references: tuple[Media, ...] = ()
    options: Mapping[str, Any] = field(default_factory=_no_options)

    @classmethod
    def parse(cls, body: Mapping[str, Any]) -> Self:
        """
        Read `{prompt, numberOfImages?, size?, modelOptions?}`. A prompt is text, or a list of text and image parts.
        """
        prompt, references = _prompt(body)
        count = _whole(body, "numberOfImages", 1)
        return cls(prompt, count, _text(body, "size"), references, _options(body))

    def check(self, limits: ImageLimits) -> None:
        _check_prompt(self.prompt, limits.prompt_chars_max)
        if self.count < 1:
            refuse("numberOfImages", self.count, f"1 to {limits.images_max}")
        if self.count > limits.images_max:
            raise TooLarge(f"numberOfImages is {self.count}. The limit is {limits.images_max}.", code="too_many_images")
        checks.check_size(self.size, limits.sizes)
        checks.check_references(len(self.references), limits.references_max)
        checks.check_options(self.options, limits.options)

    def files(self) -> tuple[File, ...]:
        return _references(self.references)

    def as_json(self, urls: Mapping[str, str] = _NO_URLS) -> dict[str, Any]:
        """Return the input as a body. A file whose path is in `urls` is its URL there, any other one base64."""
        told = {"prompt": _told_prompt(self.prompt, self.references, urls), "numberOfImages": self.count}
        return told | _given(size=self.size, modelOptions=self.options or None)


@dataclass(frozen=True, slots=True)
class SpeechTurn:
    """One turn of a dialogue: a text, and the voice that speaks it."""

    text: str
    voice: str


@dataclass(frozen=True, slots=True)
class SpeechInput:
    """A text to speak, or the turns of a dialogue. `speed` 1 is normal."""

    text: str = ""
    turns: tuple[SpeechTurn, ...] = ()
    voice: str | None = None
    format: str | None = None
    speed: float | None = None
    options: Mapping[str, Any] = field(default_factory=_no_options)

    @classmethod
    def parse(cls, body: Mapping[str, Any]) -> Self:
        """Read `{text | turns, voice?, format?, speed?, modelOptions?}`."""
        if body.get("timestamps"):
            raise InvalidRequest("timestamps is not supported. Transcribe the speech for its times.", code="timestamps")
        turns = body.get("turns")
        given = turns if isinstance(turns, list | tuple) else None
        if turns is not None and given is None:
            raise InvalidRequest("turns must be a list of {text, voice}.", code="invalid_turns")
        if given is not None and len(given) > checks.TURNS_MAX:
            raise TooLarge(f"There are {len(given)} turns. The limit is {checks.TURNS_MAX}.", code="too_many_turns")
        return cls(
            _text(body, "text") or "",
            tuple(_turn(turn) for turn in given or ()),
            _text(body, "voice"),
            _text(body, "format"),
            _number(body, "speed"),
            _options(body),
        )

    def check(self, limits: SpeechLimits) -> None:
        if bool(self.text.strip()) == bool(self.turns):
            raise InvalidRequest("Send either text or turns.", code="invalid_text")
        if any(not turn.text.strip() for turn in self.turns):
            raise InvalidRequest("A turn has no text.", code="invalid_turns")
        checks.check_chars("text", self.spoken, limits.text_chars_max)
        voices = {turn.voice for turn in self.turns}
        if self.turns and not limits.speakers_max:
            raise InvalidRequest("This model speaks one text, no turns.", code="invalid_turns")
        if len(voices) > limits.speakers_max and self.turns:
            raise TooLarge(
                f"The turns have {len(voices)} voices. The limit is {limits.speakers_max}.", code="too_many_voices"
            )
        for voice in (self.voice, *sorted(voices)):
            checks.check_known("voice", voice, limits.voices)
        checks.check_known("format", self.format, limits.formats)
        if self.speed is not None and not SPEED_MIN <= self.speed <= SPEED_MAX:
            refuse("speed", self.speed, f"{SPEED_MIN} to {SPEED_MAX}")
        checks.check_options(self.options, limits.options)

    @property
    def spoken(self) -> str:
        """All the text that is spoken."""
        return "\n".join(turn.text for turn in self.turns) if self.turns else self.text

    def files(self) -> tuple[File, ...]:
        return ()

    def as_json(self, urls: Mapping[str, str] = _NO_URLS) -> dict[str, Any]:
        """Return the input as a body."""
        turns = [{"text": turn.text, "voice": turn.voice} for turn in self.turns]
        return ({"turns": turns} if turns else {"text": self.text}) | _given(
            voice=self.voice, format=self.format, speed=self.speed, modelOptions=self.options or None
        )


@dataclass(frozen=True, slots=True)
class TranscriptionInput:
    """Audio to write down. `language` is an ISO 639-1 code, and `prompt` tells the model names and terms."""

    audio: Media
    language: str | None = None
    prompt: str | None = None
    format: str | None = None
    options: Mapping[str, Any] = field(default_factory=_no_options)

    @classmethod
    def parse(cls, body: Mapping[str, Any]) -> Self:
        """Read `{audio, language?, prompt?, responseFormat?, modelOptions?}`. Call it in a thread for long audio."""
        return cls(
            audio_in(body.get("audio")),
            _text(body, "language"),
            _text(body, "prompt"),
            _text(body, "responseFormat"),
            _options(body),
        )

    def check(self, limits: TranscriptionLimits) -> None:
        if self.language is not None and not (2 <= len(self.language) <= 3 and self.language.isascii()):
            refuse("language", self.language, "an ISO 639-1 code such as en")
        checks.check_chars("prompt", self.prompt or "", limits.prompt_chars_max)
        checks.check_known("responseFormat", self.format, limits.formats)
        checks.check_known("format", self.audio.media_type, limits.media_types)
        checks.check_options(self.options, limits.options)

    def files(self) -> tuple[File, ...]:
        return (File("audio", self.audio),)

    def as_json(self, urls: Mapping[str, str] = _NO_URLS) -> dict[str, Any]:
        """Return the input as a body. A file whose path is in `urls` is its URL there, any other one base64."""
        audio = urls.get("audio") or self.audio.data_url()
        return {"audio": audio} | _given(
            language=self.language, prompt=self.prompt, responseFormat=self.format, modelOptions=self.options or None
        )


@dataclass(frozen=True, slots=True)
class SummaryInput:
    """A text to summarize. `words_max` limits the summary's length, and `focus` names what to keep."""

    text: str
    words_max: int | None = None
    style: str | None = None
    focus: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=_no_options)

    @classmethod
    def parse(cls, body: Mapping[str, Any]) -> Self:
        """Read `{text, maxLength?, style?, focus?, modelOptions?}`."""
        focus = body.get("focus")
        topics = focus if isinstance(focus, list | tuple) else () if focus is None else None
        if topics is None or not all(isinstance(topic, str) for topic in topics):
            raise InvalidRequest("focus must be a list of strings.", code="invalid_focus")
        if len(topics) > FOCUS_MAX:
            raise TooLarge(f"focus has {len(topics)} topics. The limit is {FOCUS_MAX}.", code="focus_too_long")
        length = None if body.get("maxLength") is None else _whole(body, "maxLength", 1)
        return cls(_text(body, "text") or "", length, _text(body, "style"), tuple(topics), _options(body))

    def check(self, limits: SummaryLimits) -> None:
        if not self.text.strip():
            raise InvalidRequest("text must not be empty.", code="invalid_text")
        checks.check_chars("text", self.text, limits.text_chars_max)
        if self.words_max is not None and self.words_max < 1:
            refuse("maxLength", self.words_max, "at least 1")
        checks.check_known("style", self.style, checks.SUMMARY_STYLES)
        checks.check_chars("focus", "\n".join(self.focus), checks.PROMPT_CHARS_MAX)
        checks.check_options(self.options, limits.options)

    def files(self) -> tuple[File, ...]:
        return ()

    def as_json(self, urls: Mapping[str, str] = _NO_URLS) -> dict[str, Any]:
        """Return the input as a body."""
        return {"text": self.text} | _given(
            maxLength=self.words_max,
            style=self.style,
            focus=list(self.focus) or None,
            modelOptions=self.options or None,
        )


@dataclass(frozen=True, slots=True)
class VideoInput:
    """A video to make. `references` are pictures to start from."""

    prompt: str
    size: str | None = None
    duration_s: int | None = None
    references: tuple[Media, ...] = ()
    options: Mapping[str, Any] = field(default_factory=_no_options)

    @classmethod
    def parse(cls, body: Mapping[str, Any]) -> Self:
        """
        Read `{prompt, size?, duration?, modelOptions?}`. `seconds` is another name of `duration`, and `size` and
        `seconds` may also be model options.
        """
        prompt, references = _prompt(body)
        options = dict(_options(body))
        told = {"size": options.pop("size", None), "seconds": options.pop("seconds", None)}
        told |= {name: body[name] for name in ("size", "seconds") if body.get(name) is not None}
        told["duration"] = told["seconds"] if body.get("duration") is None else body["duration"]
        return cls(prompt, _text(told, "size"), _seconds(told["duration"]), references, options)

    def check(self, limits: VideoLimits) -> None:
        _check_prompt(self.prompt, limits.prompt_chars_max)
        checks.check_size(self.size, limits.sizes)
        checks.check_known("duration", self.duration_s, limits.durations_s)
        if self.duration_s is not None and self.duration_s < 1:
            refuse("duration", self.duration_s, "at least 1 second")
        checks.check_references(len(self.references), limits.references_max)
        checks.check_options(self.options, limits.options)

    def files(self) -> tuple[File, ...]:
        return _references(self.references)

    def as_json(self, urls: Mapping[str, str] = _NO_URLS) -> dict[str, Any]:
        """Return the input as a body. A file whose path is in `urls` is its URL there, any other one base64."""
        told = {"prompt": _told_prompt(self.prompt, self.references, urls)}
        return told | _given(size=self.size, duration=self.duration_s, modelOptions=self.options or None)


Input = ImageInput | SpeechInput | TranscriptionInput | SummaryInput | VideoInput


def _prompt(body: Mapping[str, Any]) -> tuple[str, tuple[Media, ...]]:
    """Return the text and the pictures of a prompt: a string, or a list of parts."""
    prompt = body.get("prompt")
    if isinstance(prompt, str):
        return prompt, ()
    if not isinstance(prompt, list | tuple):
        raise InvalidRequest(
            f"prompt must be text or a list of parts, not {type(prompt).__name__}.", code="invalid_prompt"
        )
    if len(prompt) > PARTS_MAX:
        raise TooLarge(f"The prompt has {len(prompt)} parts. The limit is {PARTS_MAX}.", code="prompt_too_long")
    texts, pictures = [], []
    for part in prompt:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind == "text" and isinstance(part, Mapping):
            text = part.get("content", part.get("text"))
            if not isinstance(text, str):
                raise InvalidRequest("A text part of the prompt has no content.", code="invalid_prompt")
            texts.append(text)
        elif kind == "image" or isinstance(part, Media):
            pictures.append(picture_in(part))
        else:
            raise InvalidRequest(f"Unknown part {shown(kind)} in the prompt. Use text and image.", code="unknown_part")
    return "\n".join(texts), tuple(pictures)


def _check_prompt(prompt: str, chars_max: int) -> None:
    if not prompt.strip():
        raise InvalidRequest("prompt must not be empty.", code="invalid_prompt")
    checks.check_chars("prompt", prompt, chars_max)


def _told_prompt(prompt: str, references: tuple[Media, ...], urls: Mapping[str, str]) -> Any:
    if not references:
        return prompt
    parts: list[dict[str, Any]] = [{"type": "text", "content": prompt}]
    for file in _references(references):
        url = urls.get(file.path)
        source = {"type": "url", "value": url} if url else {"type": "data", "value": file.media.base64()}
        parts.append({"type": "image", "source": source | {"mimeType": file.media.media_type}})
    return parts


def _references(references: tuple[Media, ...]) -> tuple[File, ...]:
    return tuple(File(f"references[{at}]", media) for at, media in enumerate(references))


def _turn(turn: Any) -> SpeechTurn:
    if isinstance(turn, SpeechTurn):
        return turn
    if not isinstance(turn, Mapping):
        raise InvalidRequest("turns must be a list of {text, voice}.", code="invalid_turns")
    text, voice = turn.get("text"), turn.get("voice")
    if not isinstance(text, str) or not isinstance(voice, str):
        raise InvalidRequest("A turn needs a text and a voice, which are strings.", code="invalid_turns")
    return SpeechTurn(text, voice)


def _text(body: Mapping[str, Any], name: str) -> str | None:
    value = body.get(name)
    if value is not None and not isinstance(value, str):
        raise InvalidRequest(f"{name} must be a string, not {type(value).__name__}.", code=f"invalid_{name}")
    return value


def _whole(body: Mapping[str, Any], name: str, default: int) -> int:
    value = body.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidRequest(f"{name} must be a whole number, not {shown(value)}.", code=f"invalid_{name}")
    return value


def _seconds(value: Any) -> int | None:
    """Return a duration. OpenAI's API writes it as a string: "8"."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 6:
        return int(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
        refuse("duration", value, "whole seconds")
    return value


def _number(body: Mapping[str, Any], name: str) -> float | None:
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InvalidRequest(f"{name} must be a number, not {shown(value)}.", code=f"invalid_{name}")
    return float(value)


def _options(body: Mapping[str, Any]) -> Mapping[str, Any]:
    options = body.get("modelOptions")
    if options is None:
        return {}
    if not isinstance(options, Mapping):
        raise InvalidRequest("modelOptions must be an object.", code="invalid_modelOptions")
    return dict(options)


def _given(**values: Any) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}
