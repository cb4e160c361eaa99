"""What the demo makes are real files, which depend on what was asked."""

from __future__ import annotations

import base64
import io
import struct
import wave
import zlib
from typing import Any

import pytest

from durable_chat import (
    DemoImages,
    DemoSpeech,
    DemoSummary,
    DemoTranscription,
    DemoVideo,
    ProviderError,
    Settings,
    SummaryResult,
    VideoInput,
    generate_image,
    generate_speech,
    generate_transcription,
    generate_video,
    summarize,
)
from durable_chat.generations.demo.fonts import HEIGHT, glyph, wrap
from durable_chat.generations.demo.images import SIZES
from durable_chat.generations.demo.speech import text_in
from durable_chat.generations.demo.videos import KEPT_S, TITLE_CHARS_MAX
from durable_chat.generations.demo.videos import SIZES as VIDEO_SIZES
from durable_chat.generations.inputs import SPEED_MIN
from durable_chat.generations.limits import SPEECH_CHARS_MAX
from tests.generations.made import clip, image, run, spoken
from tests.generations.test_inputs import wav


def pixels(png: bytes) -> tuple[int, int, list[bytes]]:
    """Width, height and rows of palette indexes of a PNG file; every checksum is checked."""
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    at, data, head = 8, b"", b""
    while at < len(png):
        length, kind = struct.unpack(">I4s", png[at : at + 8])
        body = png[at + 8 : at + 8 + length]
        assert zlib.crc32(kind + body) == struct.unpack(">I", png[at + 8 + length : at + 12 + length])[0]
        head = body if kind == b"IHDR" else head
        data += body if kind == b"IDAT" else b""
        at += 12 + length
    width, height = struct.unpack(">II", head[:8])
    raw = zlib.decompress(data)
    return width, height, [raw[y * (width + 1) + 1 : (y + 1) * (width + 1)] for y in range(height)]


@pytest.mark.parametrize("size", [None, *SIZES])
def test_a_picture_shows_its_prompt(size: str | None) -> None:
    """The picture has the size that was asked, and letters in its middle."""
    (png,) = image("A red fox", size)
    width, height, rows = pixels(png)
    assert f"{width}x{height}" == (size or "1024x1024")
    inked = [y for y, row in enumerate(rows) if 255 in row]
    assert inked
    assert abs((inked[0] + inked[-1]) / 2 - height / 2) < height / 8


def test_pictures_differ() -> None:
    """Another prompt and another number make another picture; the same ones make the same."""
    assert len(set(image("A red fox", count=2))) == 2
    assert image("A red fox") != image("A red dog")
    assert image("A red fox") == image("A red fox")


@pytest.mark.parametrize("prompt", ["x" * 4000, "élan 日本 \ud83d", "a\n\tb", "1"])
def test_any_prompt_is_drawn(prompt: str) -> None:
    """Long prompts are cut, other alphabets are boxes, accents are left out."""
    for png in image(prompt, "256x256"):
        assert pixels(png)[:2] == (256, 256)


def test_letters() -> None:
    """A letter with an accent is its letter, and an unknown one a box."""
    assert glyph("é") == glyph("e")
    assert glyph("日") == glyph("本") != glyph("e")
    assert glyph("\n") == bytes(HEIGHT)
    assert wrap("one two three", 7, 3) == ["one two", "three"]
    assert wrap("abcdefgh", 3, 3) == ["abc", "def", "gh"]
    assert wrap("one two three four", 5, 2) == ["one", "tw..."]


def test_speech_is_a_wav_file() -> None:
    """Its length depends on the text and the speed, its sound on the text and the voice."""
    audio = spoken("Hello there.")
    with wave.open(io.BytesIO(audio.data)) as opened:
        assert (opened.getnchannels(), opened.getsampwidth(), opened.getframerate()) == (1, 2, 8_000)
        frames = opened.readframes(opened.getnframes())
    assert max(abs(value) for (value,) in struct.iter_unpack("<h", frames)) > 5_000
    assert len(spoken("Hello there.", speed=2.0).data) < len(audio.data) * 0.6
    assert spoken("Hello there.", voice="onyx").data != audio.data
    assert spoken("Hello where.").data != audio.data
    raw = spoken("Hello there.", kind="pcm")
    assert (raw.data, raw.media_type, raw.extension) == (frames, "audio/pcm;rate=8000;channels=1", "pcm")


def test_the_longest_speech_can_be_stored() -> None:
    """The longest text at the lowest speed is a file that a session keeps."""
    audio = spoken("a" * SPEECH_CHARS_MAX, speed=SPEED_MIN)
    assert len(audio.data) < Settings().artifact_max_bytes


def test_a_dialogue_has_its_voices() -> None:
    """Turns are spoken one after the other, and their text comes back."""
    turns = [{"text": "One.", "voice": "nova"}, {"text": "Two.", "voice": "onyx"}]

    async def make() -> str:
        made = await generate_speech(adapter=DemoSpeech(0), turns=turns)
        return (await generate_transcription(adapter=DemoTranscription(0), audio=made.audio)).text

    assert run(make()) == "One.\nTwo."


def test_other_audio_is_described() -> None:
    """The demo cannot hear, and says what it was given."""

    async def told(audio: bytes) -> tuple[str, float | None]:
        made = await generate_transcription(adapter=DemoTranscription(0), audio=audio)
        return made.text, made.duration_s

    assert run(told(wav(16_000))) == (
        "The demo cannot hear. The audio is audio/wav (1 seconds, 32,044 bytes).",
        1.0,
    )
    assert run(told(b"OggS12345")) == ("The demo cannot hear. The audio is audio/ogg (9 bytes).", None)
    assert run(told(b"RIFF....WAVEdamaged"))[1] is None
    assert text_in(b"RIFF....WAVELIST") is None


TEXT = "The river is long. Boats on the river carry wood along the river. It rained. Birds sing near the boats."


def test_summaries() -> None:
    """The sentences with the frequent words, in their order, as long and in the style that is wished."""

    async def told(**options: Any) -> str:
        made: SummaryResult = await summarize(adapter=DemoSummary(0), text=TEXT, **options)
        return made.summary

    assert run(told(style="concise")) == "Boats on the river carry wood along the river."
    assert run(told(focus=["Birds"])).endswith("Birds sing near the boats.")
    assert len(run(told(max_length=5)).split()) == 5
    assert run(told(style="bullet-points")).count("\n- ") == 2
    assert "It rained." not in run(told())


def test_the_video_is_a_small_file_with_its_prompt() -> None:
    """A prompt of any length is its title, up to a limit."""
    video = clip(12, VIDEO_SIZES[0], "fox " * 100)
    assert video.media_type == "video/webm"
    assert len(video.data) < 100_000
    assert ("fox " * 100)[:TITLE_CHARS_MAX].encode() in video.data


def test_a_job_survives_its_process() -> None:
    """Everything is in the id: another adapter, with another clock, knows the job. Its address expires after an hour."""

    async def states() -> list[str]:
        clock = [1000.0]
        job = await DemoVideo(job_s=10, now_s=lambda: clock[0]).create(VideoInput("a fox"))
        other = DemoVideo(job_s=99, now_s=lambda: clock[0])
        with pytest.raises(ProviderError, match="not ready"):
            await other.content(job.job_id)
        seen: list[str] = []
        for clock[0] in (1000.0, 1001.0, 1009.9, 1010.0):
            seen.append((await other.status(job.job_id)).status)
        assert base64.b64decode(job.job_id.removeprefix("demo_") + "==", b"-_")
        clock[0] = 1010.0 + KEPT_S + 1
        with pytest.raises(ProviderError, match="expired"):
            await other.content(job.job_id)
        return seen

    assert run(states()) == ["pending", "processing", "processing", "completed"]


@pytest.mark.parametrize("job_id", ["", "demo_", "demo_e30", "demo_!", "video_1", "demo_bnVsbA"])
def test_an_id_that_is_none(job_id: str) -> None:
    """It is an unknown job, whatever it is."""
    with pytest.raises(ProviderError) as raised:
        run(DemoVideo().status(job_id))
    assert raised.value.code == "unknown_job"


def test_the_word_fail() -> None:
    """Each activity fails halfway where the words say so, to see what a failure looks like."""

    async def fails() -> list[str]:
        codes = []
        for call in (
            generate_image(adapter=DemoImages(0), prompt="please fail"),
            generate_speech(adapter=DemoSpeech(0), text="fail"),
            summarize(adapter=DemoSummary(0), text="fail. And more."),
        ):
            with pytest.raises(ProviderError) as raised:
                await call
            codes.append(raised.value.code)
        clock = [0.0]
        adapter = DemoVideo(job_s=10, now_s=lambda: clock[0])
        job = await generate_video(adapter=adapter, prompt="fail")
        clock[0] = 5.0
        status = await adapter.status(job.job_id)
        assert status.error == "The demo failed halfway, because the prompt said so."
        return [*codes, status.status]

    assert run(fails()) == ["demo_failure"] * 3 + ["failed"]
