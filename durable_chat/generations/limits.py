"""
What an adapter's model takes. An input is checked against it before the provider is paid.

Each check raises InvalidRequest (400) for a value that the model does not know, and TooLarge (413) for one over a
limit.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from durable_chat.errors import InvalidRequest, TooLarge

PROMPT_CHARS_MAX = 32_000
"""Default limit of a prompt for pictures and videos: what gpt-image-1 reads. A longer one is a mistake."""

SPEECH_CHARS_MAX = 4_096
"""Default limit of a text to speak: OpenAI's, about five minutes of speech."""

SUMMARY_CHARS_MAX = 1_000_000
"""Default limit of a text to summarize: a long book. A model's own context may be shorter."""

IMAGES_MAX = 10
"""Default limit of the images of one request: OpenAI's. Each one is paid for."""

OPTION_CHARS_MAX = 4_096
"""Limit of a text in a model's own options, for example instructions: as long as a text to speak."""

TURNS_MAX = 100
"""Limit of the turns of a dialogue, whose texts together also have a limit."""

SPEECH_FORMATS = ("mp3", "opus", "aac", "flac", "wav", "pcm")
TRANSCRIPT_FORMATS = ("json", "text", "srt", "verbose_json", "vtt")
SUMMARY_STYLES = ("bullet-points", "paragraph", "concise")

_SIZE = re.compile(r"[1-9][0-9]{0,4}x[1-9][0-9]{0,4}")
_NO_OPTIONS: Mapping[str, Collection[Any] | None] = {}
SHOWN_CHARS_MAX = 60
"""Characters of an unknown value that an error shows."""


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """
    `sizes` None allows any WIDTHxHEIGHT. `options` are the model's own options that a client may set, and their values;
    None allows any text.
    """

    sizes: Collection[str] | None = None
    images_max: int = IMAGES_MAX
    prompt_chars_max: int = PROMPT_CHARS_MAX
    references_max: int = 0
    options: Mapping[str, Collection[Any] | None] = field(default_factory=lambda: _NO_OPTIONS)


@dataclass(frozen=True, slots=True)
class SpeechLimits:
    """`voices` None allows any name. `speakers_max` 0 means that the model does not speak dialogues (`turns`)."""

    voices: Collection[str] | None = None
    formats: Collection[str] = SPEECH_FORMATS
    text_chars_max: int = SPEECH_CHARS_MAX
    speakers_max: int = 0
    options: Mapping[str, Collection[Any] | None] = field(default_factory=lambda: _NO_OPTIONS)


@dataclass(frozen=True, slots=True)
class TranscriptionLimits:
    """`media_types` None allows every audio type."""

    formats: Collection[str] = TRANSCRIPT_FORMATS
    media_types: Collection[str] | None = None
    prompt_chars_max: int = PROMPT_CHARS_MAX
    options: Mapping[str, Collection[Any] | None] = field(default_factory=lambda: _NO_OPTIONS)


@dataclass(frozen=True, slots=True)
class SummaryLimits:
    """What a model that summarizes takes."""

    text_chars_max: int = SUMMARY_CHARS_MAX
    options: Mapping[str, Collection[Any] | None] = field(default_factory=lambda: _NO_OPTIONS)


@dataclass(frozen=True, slots=True)
class VideoLimits:
    """`sizes` None allows any WIDTHxHEIGHT, `durations_s` None any duration."""

    sizes: Collection[str] | None = None
    durations_s: Collection[int] | None = None
    prompt_chars_max: int = PROMPT_CHARS_MAX
    references_max: int = 0
    options: Mapping[str, Collection[Any] | None] = field(default_factory=lambda: _NO_OPTIONS)


def check_chars(name: str, text: str, chars_max: int) -> None:
    if len(text) > chars_max:
        raise TooLarge(f"{name} has {len(text)} characters. The limit is {chars_max}.", code=f"{name}_too_long")


def check_size(size: str | None, sizes: Collection[str] | None) -> None:
    if size is None:
        return
    if sizes is None:
        if not _SIZE.fullmatch(size):
            refuse("size", size, "WIDTHxHEIGHT, for example 1024x1024")
    else:
        check_known("size", size, sizes)


def check_known(name: str, value: object, known: Collection[Any] | None) -> None:
    """Check that the value is one of the known ones, if they are known. JSON's true is not 1."""
    if value is None or known is None:
        return
    if not any(value == each and type(value) is type(each) for each in known):
        refuse(name, value, "one of " + ", ".join(map(str, known)))


def check_references(count: int, references_max: int) -> None:
    if count and not references_max:
        raise InvalidRequest("This model takes no pictures in a prompt.", code="unknown_picture")
    if count > references_max:
        raise TooLarge(f"The prompt has {count} pictures. The limit is {references_max}.", code="too_many_pictures")


def check_options(options: Mapping[str, Any], known: Mapping[str, Collection[Any] | None]) -> None:
    """Check the model's own options. Unknown ones are refused, because one of them could multiply the price."""
    for name, value in options.items():
        if name not in known:
            takes = "This model takes " + (", ".join(known) if known else "none") + "."
            raise InvalidRequest(f"Unknown option {shown(name)}. {takes}", code="unknown_option")
        if known[name] is not None:
            check_known(name, value, known[name])
        elif not isinstance(value, str):
            refuse(name, value, "a string")
        else:
            check_chars(name, value, OPTION_CHARS_MAX)


def refuse(name: str, value: object, expected: str) -> NoReturn:
    raise InvalidRequest(f"Unknown {name} {shown(value)}. Use {expected}.", code=f"unknown_{name}")


def shown(value: object) -> str:
    return repr(value)[:SHOWN_CHARS_MAX]
