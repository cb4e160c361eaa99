"""
The demo's speech: WAV files with a tone for each letter. They carry their text, so that the demo can write it down
again.
"""

from __future__ import annotations

import asyncio
import io
import math
import uuid
import wave
from array import array
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import ClassVar

from durable_chat.generations.demo.images import should_fail
from durable_chat.generations.inputs import SpeechInput, SpeechTurn
from durable_chat.generations.limits import SpeechLimits
from durable_chat.generations.media import Media
from durable_chat.generations.results import Progress, SpeechResult
from durable_chat.models.base import ProviderError

RATE_HZ = 8_000
"""Enough for tones. The longest text at the lowest speed stays below the default limit of a file (20 MiB)."""
TONE_S = 0.06
"""Length of a letter's tone at speed 1: a text takes about as long as when it is spoken."""

VOLUME = 9_000
"""Of 32,767: tones sound louder than speech."""

VOICES_HZ = {"alloy": 196, "echo": 147, "fable": 220, "onyx": 98, "nova": 247, "shimmer": 294}
"""The voices and their base frequencies. The names are those of OpenAI's, so that a page works with both."""

VOICE_DEFAULT = "alloy"
STEPS = 4
COMMENT = b"ICMT"
"""The field of RIFF's INFO list that contains the text."""


@dataclass(frozen=True, slots=True)
class DemoSpeech:
    """
    Speaks in tones. It takes `delay_s` seconds and reports progress. A text with the word `fail` fails halfway.
    Formats: wav and pcm (16 bits, 8 kHz, mono).
    """

    delay_s: float = 1.0
    model: ClassVar[str] = "demo"
    provider: ClassVar[str] = "demo"
    limits: ClassVar[SpeechLimits] = SpeechLimits(
        voices=tuple(VOICES_HZ), formats=("wav", "pcm"), speakers_max=len(VOICES_HZ)
    )

    async def generate(self, request: SpeechInput, /) -> AsyncIterator[Progress | SpeechResult]:
        for step in range(1, STEPS + 1):
            await asyncio.sleep(self.delay_s / STEPS)
            if should_fail(request.spoken) and step > STEPS // 2:
                raise ProviderError("The demo failed halfway, because the text said so.", "demo_failure")
            yield Progress(100 * step // STEPS)
        turns = request.turns or (SpeechTurn(request.text, request.voice or VOICE_DEFAULT),)
        samples = await asyncio.to_thread(speak, turns, request.speed or 1.0)
        duration_s = round(len(samples) / 2 / RATE_HZ, 3)
        if request.format == "pcm":
            audio = Media(samples, f"audio/pcm;rate={RATE_HZ};channels=1")
        else:
            audio = Media(wav_of(samples, request.spoken), "audio/wav")
        yield SpeechResult(f"tts-{uuid.uuid4().hex}", self.model, audio, request.format or "wav", duration_s)


def speak(turns: tuple[SpeechTurn, ...], speed: float) -> bytes:
    """
    Return samples: a tone for each letter, whose pitch depends on the letter and the voice, and silence between words.
    """
    count = int(RATE_HZ * TONE_S / speed)
    tones: dict[tuple[str, str], bytes] = {}
    sounds = []
    for turn in turns:
        for letter in f"{turn.text.lower()} ":
            key = (turn.voice, letter)
            if key not in tones:
                tones[key] = _tone(_pitch(letter, turn.voice), count)
            sounds.append(tones[key])
    return b"".join(sounds)


def _pitch(letter: str, voice: str) -> float | None:
    """Return the frequency of a letter; None for silence. Letters are semitones of two octaves."""
    if not letter.isalnum():
        return None
    return float(VOICES_HZ[voice] * 2 ** (ord(letter) % 25 / 12))


def _tone(frequency_hz: float | None, count: int) -> bytes:
    """Return a tone that swells and fades, so that it does not click."""
    if frequency_hz is None:
        return bytes(2 * count)
    step = 2 * math.pi * frequency_hz / RATE_HZ
    return array(
        "h", (int(VOLUME * math.sin(math.pi * at / count) * math.sin(step * at)) for at in range(count))
    ).tobytes()


def wav_of(samples: bytes, text: str) -> bytes:
    """Return a WAV file with the text in its INFO list."""
    file = io.BytesIO()
    with wave.open(file, "wb") as wav:
        wav.setnchannels(1)
        wav.setsampwidth(2)
        wav.setframerate(RATE_HZ)
        wav.writeframes(samples)
    note = text.encode("utf-8", "replace") + b"\x00"
    entry = b"INFO" + COMMENT + len(note).to_bytes(4, "little") + note + bytes(len(note) % 2)
    data = file.getvalue() + b"LIST" + len(entry).to_bytes(4, "little") + entry
    return data[:4] + (len(data) - 8).to_bytes(4, "little") + data[8:]


def text_in(data: bytes) -> str | None:
    """Return the text that a WAV file of the demo carries."""
    at = 12
    while at + 8 <= len(data):
        kind, size = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        body = data[at + 8 : at + 8 + size]
        if kind == b"LIST" and body[:4] == b"INFO" and body[4:8] == COMMENT:
            length = int.from_bytes(body[8:12], "little")
            return body[12 : 12 + length].rstrip(b"\x00").decode("utf-8", "replace")
        at += 8 + size + size % 2
    return None
