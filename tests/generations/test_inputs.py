"""What inputs of generations are refused, with which status, and what is just within each limit."""

from __future__ import annotations

import base64
import io
import wave
from typing import Any

import pytest

from durable_chat.errors import DurableChatError
from durable_chat.generations.adapters import INPUTS, Activity, check_input, parse_input, provider_of
from durable_chat.generations.choosing import choose_adapter
from durable_chat.generations.demo.images import DemoImages, draw
from durable_chat.generations.inputs import (
    FOCUS_MAX,
    PARTS_MAX,
    ImageInput,
    SpeechInput,
    SpeechTurn,
    SummaryInput,
    TranscriptionInput,
    VideoInput,
)
from durable_chat.generations.limits import (
    SPEECH_CHARS_MAX,
    SUMMARY_CHARS_MAX,
    TURNS_MAX,
    ImageLimits,
    SpeechLimits,
    TranscriptionLimits,
    VideoLimits,
)
from durable_chat.generations.media import AUDIO_BYTES_MAX, REFERENCE_BYTES_MAX, Media


def wav(frames: int = 160) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as made:
        made.setnchannels(1)
        made.setsampwidth(2)
        made.setframerate(16_000)
        made.writeframes(bytes(2 * frames))
    return file.getvalue()


WAV = base64.b64encode(wav()).decode()
PNG = base64.b64encode(draw("x", 8, 8)).decode()
PART = {"type": "image", "source": {"type": "data", "value": PNG, "mimeType": "image/png"}}


def refused(activity: Activity, body: Any, adapter: Any = None) -> tuple[int, str] | None:
    """The status and code that the input gets from the demo's adapter, or from this one."""
    try:
        check_input(adapter or choose_adapter(activity, "demo"), parse_input(activity, body))
    except DurableChatError as error:
        return error.status, error.code
    return None


class Draws:
    """An adapter of a user's own, with limits of its own."""

    model = "draws"

    def __init__(self, limits: Any) -> None:
        self.limits = limits


BAD: list[tuple[Activity, Any, tuple[int, str]]] = [
    ("image", [], (400, "invalid_input")),
    ("image", "a fox", (400, "invalid_input")),
    ("image", {}, (400, "invalid_prompt")),
    ("image", {"prompt": None}, (400, "invalid_prompt")),
    ("image", {"prompt": {}}, (400, "invalid_prompt")),
    ("image", {"prompt": 7}, (400, "invalid_prompt")),
    ("image", {"prompt": " \n"}, (400, "invalid_prompt")),
    ("image", {"prompt": []}, (400, "invalid_prompt")),
    ("image", {"prompt": [{"type": "text"}]}, (400, "invalid_prompt")),
    ("image", {"prompt": [{"type": "video"}]}, (400, "unknown_part")),
    ("image", {"prompt": ["a fox"]}, (400, "unknown_part")),
    ("image", {"prompt": [{"type": "image"}]}, (400, "invalid_picture")),
    ("image", {"prompt": [{"type": "image", "source": {}}]}, (400, "invalid_picture")),
    (
        "image",
        {"prompt": [{"type": "image", "source": {"type": "url", "value": "http://10.0.0.1/"}}]},
        (400, "invalid_picture"),
    ),
    ("image", {"prompt": [{"type": "image", "source": {"type": "data", "value": "eA=="}}]}, (400, "invalid_picture")),
    ("image", {"prompt": [{"type": "image", "source": {"type": "data", "value": "?"}}]}, (400, "bad_data")),
    ("image", {"prompt": [{"type": "text", "content": "a"}, PART]}, (400, "unknown_picture")),
    ("image", {"prompt": "a", "size": "1x1"}, (400, "unknown_size")),
    ("image", {"prompt": "a", "size": 1024}, (400, "invalid_size")),
    ("image", {"prompt": "a", "numberOfImages": 0}, (400, "unknown_numberOfImages")),
    ("image", {"prompt": "a", "numberOfImages": -1}, (400, "unknown_numberOfImages")),
    ("image", {"prompt": "a", "numberOfImages": "2"}, (400, "invalid_numberOfImages")),
    ("image", {"prompt": "a", "numberOfImages": True}, (400, "invalid_numberOfImages")),
    ("image", {"prompt": "a", "numberOfImages": 1.5}, (400, "invalid_numberOfImages")),
    ("image", {"prompt": "a", "modelOptions": []}, (400, "invalid_modelOptions")),
    ("image", {"prompt": "a", "modelOptions": {"quality": "high"}}, (400, "unknown_option")),
    ("speech", {}, (400, "invalid_text")),
    ("speech", {"text": ""}, (400, "invalid_text")),
    ("speech", {"text": {}}, (400, "invalid_text")),
    ("speech", {"turns": []}, (400, "invalid_text")),
    ("speech", {"text": "a", "turns": [{"text": "b", "voice": "nova"}]}, (400, "invalid_text")),
    ("speech", {"turns": {}}, (400, "invalid_turns")),
    ("speech", {"turns": ["b"]}, (400, "invalid_turns")),
    ("speech", {"turns": [{"text": "b"}]}, (400, "invalid_turns")),
    ("speech", {"turns": [{"text": " ", "voice": "nova"}]}, (400, "invalid_turns")),
    ("speech", {"turns": [{"text": "b", "voice": "nobody"}]}, (400, "unknown_voice")),
    ("speech", {"text": "a", "voice": "nobody"}, (400, "unknown_voice")),
    ("speech", {"text": "a", "voice": 1}, (400, "invalid_voice")),
    ("speech", {"text": "a", "format": "mp3"}, (400, "unknown_format")),
    ("speech", {"text": "a", "speed": 0.24}, (400, "unknown_speed")),
    ("speech", {"text": "a", "speed": 4.01}, (400, "unknown_speed")),
    ("speech", {"text": "a", "speed": "1"}, (400, "invalid_speed")),
    ("speech", {"text": "a", "speed": True}, (400, "invalid_speed")),
    ("speech", {"text": "a", "speed": float("nan")}, (400, "invalid_speed")),
    ("speech", {"text": "a", "timestamps": True}, (400, "timestamps")),
    ("transcription", {}, (400, "invalid_audio")),
    ("transcription", {"audio": {}}, (400, "invalid_audio")),
    ("transcription", {"audio": []}, (400, "invalid_audio")),
    ("transcription", {"audio": ""}, (400, "invalid_audio")),
    ("transcription", {"audio": "data:audio/wav;base64,"}, (400, "invalid_audio")),
    ("transcription", {"audio": "not base64"}, (400, "bad_data")),
    ("transcription", {"audio": "data:audio/wav"}, (400, "bad_data")),
    ("transcription", {"audio": PNG}, (400, "unknown_format")),
    ("transcription", {"audio": f"data:image/png;base64,{PNG}"}, (400, "unknown_format")),
    ("transcription", {"audio": WAV, "responseFormat": "xml"}, (400, "unknown_responseFormat")),
    ("transcription", {"audio": WAV, "language": "x"}, (400, "unknown_language")),
    ("transcription", {"audio": WAV, "language": "english"}, (400, "unknown_language")),
    ("transcription", {"audio": WAV, "prompt": 1}, (400, "invalid_prompt")),
    ("summary", {}, (400, "invalid_text")),
    ("summary", {"text": "\t"}, (400, "invalid_text")),
    ("summary", {"text": ["a"]}, (400, "invalid_text")),
    ("summary", {"text": "a", "maxLength": 0}, (400, "unknown_maxLength")),
    ("summary", {"text": "a", "maxLength": "9"}, (400, "invalid_maxLength")),
    ("summary", {"text": "a", "style": "haiku"}, (400, "unknown_style")),
    ("summary", {"text": "a", "focus": "cats"}, (400, "invalid_focus")),
    ("summary", {"text": "a", "focus": [1]}, (400, "invalid_focus")),
    ("video", {"prompt": ""}, (400, "invalid_prompt")),
    ("video", {"prompt": "a", "size": "1280x721"}, (400, "unknown_size")),
    ("video", {"prompt": "a", "duration": 5}, (400, "unknown_duration")),
    ("video", {"prompt": "a", "duration": 0}, (400, "unknown_duration")),
    ("video", {"prompt": "a", "duration": True}, (400, "unknown_duration")),
    ("video", {"prompt": "a", "duration": 4.5}, (400, "unknown_duration")),
    ("video", {"prompt": "a", "duration": "long"}, (400, "unknown_duration")),
    ("video", {"prompt": "a", "seconds": "5"}, (400, "unknown_duration")),
    ("video", {"prompt": "a", "modelOptions": {"seconds": 5}}, (400, "unknown_duration")),
    ("video", {"prompt": "a", "modelOptions": {"size": "1x1"}}, (400, "unknown_size")),
    ("video", {"prompt": "a", "modelOptions": {"model": "sora-2-pro"}}, (400, "unknown_option")),
]


@pytest.mark.parametrize(("activity", "body", "error"), BAD, ids=lambda value: str(value)[:60])
def test_bad_inputs(activity: Activity, body: Any, error: tuple[int, str]) -> None:
    """A value of the wrong type, or one that the model does not know, is a 400 with a code that names it."""
    assert refused(activity, body) == error


def bytes_of(size: int, head: bytes) -> str:
    return base64.b64encode(head + bytes(size - len(head))).decode()


def turns(count: int) -> list[dict[str, str]]:
    return [{"text": "a", "voice": "nova"}] * count


LIMITS: list[tuple[Activity, Any, Any, Any, str]] = [
    ("image", None, {"prompt": "a" * 4000}, {"prompt": "a" * 4001}, "prompt_too_long"),
    ("image", None, {"prompt": "a", "numberOfImages": 4}, {"prompt": "a", "numberOfImages": 5}, "too_many_images"),
    (
        "image",
        Draws(ImageLimits(references_max=2)),
        {"prompt": [{"type": "text", "content": "a"}, PART, PART]},
        {"prompt": [{"type": "text", "content": "a"}, PART, PART, PART]},
        "too_many_pictures",
    ),
    (
        "image",
        None,
        {"prompt": [{"type": "text", "content": "a"}] * PARTS_MAX},
        {"prompt": [{"type": "text", "content": "a"}] * (PARTS_MAX + 1)},
        "prompt_too_long",
    ),
    ("speech", None, {"text": "a" * SPEECH_CHARS_MAX}, {"text": "a" * (SPEECH_CHARS_MAX + 1)}, "text_too_long"),
    ("speech", None, {"turns": turns(TURNS_MAX)}, {"turns": turns(TURNS_MAX + 1)}, "too_many_turns"),
    (
        "speech",
        Draws(SpeechLimits(speakers_max=1)),
        {"turns": turns(2)},
        {"turns": [*turns(1), {"text": "b", "voice": "echo"}]},
        "too_many_voices",
    ),
    (
        "transcription",
        None,
        {"audio": bytes_of(AUDIO_BYTES_MAX, b"ID3")},
        {"audio": bytes_of(AUDIO_BYTES_MAX + 1, b"ID3")},
        "audio_too_large",
    ),
    ("summary", None, {"text": "a" * SUMMARY_CHARS_MAX}, {"text": "a" * (SUMMARY_CHARS_MAX + 1)}, "text_too_long"),
    (
        "summary",
        None,
        {"text": "a", "focus": ["b"] * FOCUS_MAX},
        {"text": "a", "focus": ["b"] * (FOCUS_MAX + 1)},
        "focus_too_long",
    ),
    ("video", None, {"prompt": "a" * 4000}, {"prompt": "a" * 4001}, "prompt_too_long"),
]


@pytest.mark.parametrize(("activity", "adapter", "within", "over", "code"), LIMITS, ids=lambda value: str(value)[:20])
def test_limits(activity: Activity, adapter: Any, within: Any, over: Any, code: str) -> None:
    """At its limit an input is taken. One more is a 413."""
    assert refused(activity, within, adapter) is None
    assert refused(activity, over, adapter) == (413, code)


def test_a_picture_may_be_as_large_as_a_file_of_a_message() -> None:
    """The limit of a picture holds for its bytes; a long text is refused before it is decoded."""
    adapter = Draws(ImageLimits(references_max=1))
    png = draw("x", 8, 8)

    def body(size: int) -> Any:
        source = {"type": "data", "value": base64.b64encode(png + bytes(size - len(png))).decode()}
        return {"prompt": [{"type": "text", "content": "a"}, {"type": "image", "source": source}]}

    assert refused("image", body(REFERENCE_BYTES_MAX), adapter) is None
    assert refused("image", body(REFERENCE_BYTES_MAX + 1), adapter) == (413, "picture_too_large")
    assert refused("image", body(REFERENCE_BYTES_MAX + 4096), adapter) == (413, "picture_too_large")


GOOD: list[tuple[Activity, Any, Any]] = [
    ("image", {"prompt": "a", "model": "ignored", "seed": 3}, ImageInput("a")),
    ("image", {"prompt": "a", "numberOfImages": 2, "size": "512x512"}, ImageInput("a", 2, "512x512")),
    ("image", {"prompt": [{"type": "text", "text": "a"}, {"type": "text", "content": "b"}]}, ImageInput("a\nb")),
    ("speech", {"text": "a", "speed": 0.25}, SpeechInput("a", speed=0.25)),
    ("speech", {"text": "a", "voice": "nova", "speed": 4}, SpeechInput("a", voice="nova", speed=4.0)),
    ("speech", {"turns": turns(1), "format": "pcm"}, SpeechInput(turns=(SpeechTurn("a", "nova"),), format="pcm")),
    ("transcription", {"audio": WAV}, TranscriptionInput(Media(wav(), "audio/wav"))),
    ("transcription", {"audio": f"data:audio/x-wav;base64,{WAV}"}, TranscriptionInput(Media(wav(), "audio/wav"))),
    ("summary", {"text": "a", "focus": ["b"], "maxLength": 1}, SummaryInput("a", 1, focus=("b",))),
    ("video", {"prompt": "a"}, VideoInput("a")),
    ("video", {"prompt": "a", "duration": 12, "size": "720x1280"}, VideoInput("a", "720x1280", 12)),
    ("video", {"prompt": "a", "seconds": "8"}, VideoInput("a", None, 8)),
    ("video", {"prompt": "a", "modelOptions": {"seconds": 4}}, VideoInput("a", None, 4)),
]


@pytest.mark.parametrize(("activity", "body", "expected"), GOOD, ids=lambda value: str(value)[:60])
def test_good_inputs(activity: Activity, body: Any, expected: Any) -> None:
    """A body is read in TanStack AI's names, and what is read can be written as a body again."""
    read = parse_input(activity, body)
    assert read == expected
    assert refused(activity, body) is None
    assert INPUTS[activity].parse(read.as_json()) == read


def test_pictures_are_read_back() -> None:
    """A prompt with a picture survives as a body, with the picture as data or as an address."""
    read = parse_input("image", {"prompt": [{"type": "text", "content": "a"}, PART]})
    assert parse_input("image", read.as_json()) == read
    (file,) = read.files()
    assert file.media == Media(base64.b64decode(PNG), "image/png")
    assert read.as_json({file.path: "/here"})["prompt"][1]["source"]["value"] == "/here"


def test_objects_are_taken_as_well() -> None:
    """In Python, files are Media and turns are SpeechTurns; only two inputs have files."""
    picture = Media(base64.b64decode(PNG), "application/octet-stream")
    for part in (picture, {"type": "image", "source": {"type": "data", "value": picture}}):
        read = parse_input("image", {"prompt": [{"type": "text", "content": "a"}, part]})
        assert read.files()[0].media.media_type == "image/png"
    assert SpeechInput.parse({"turns": [SpeechTurn("a", "nova")]}) == SpeechInput.parse({"turns": turns(1)})
    assert parse_input("video", {"prompt": "a", "duration": 8.0}) == VideoInput("a", None, 8)
    assert parse_input("speech", {"text": "a"}).files() == parse_input("summary", {"text": "a"}).files() == ()


def test_generic_limits() -> None:
    """Without lists of its own, an adapter takes any size of the usual form, any voice and any whole duration."""
    images = Draws(ImageLimits())
    assert refused("image", {"prompt": "a", "size": "99999x1"}, images) is None
    for size in ("0x1", "100000x1", "1x", "1X1", "1x1\n", ""):
        assert refused("image", {"prompt": "a", "size": size}, images) == (400, "unknown_size")
    videos = Draws(VideoLimits())
    assert refused("video", {"prompt": "a", "duration": 1}, videos) is None
    assert refused("video", {"prompt": "a", "duration": 0}, videos) == (400, "unknown_duration")
    assert refused("speech", {"text": "a", "voice": "anybody"}, Draws(SpeechLimits())) is None
    assert refused("speech", {"turns": turns(1)}, Draws(SpeechLimits())) == (400, "invalid_turns")
    only_mp3 = Draws(TranscriptionLimits(media_types=("audio/mpeg",)))
    assert refused("transcription", {"audio": WAV}, only_mp3) == (400, "unknown_format")


def test_an_option_of_the_model_has_known_values() -> None:
    """Of a model's own options, only those that the adapter names are passed on, with the values that it names."""
    adapter = Draws(ImageLimits(options={"quality": ("low", "high"), "n": (1,)}))
    assert refused("image", {"prompt": "a", "modelOptions": {"quality": "high", "n": 1}}, adapter) is None
    assert refused("image", {"prompt": "a", "modelOptions": {"quality": "best"}}, adapter) == (400, "unknown_quality")
    assert refused("image", {"prompt": "a", "modelOptions": {"n": True}}, adapter) == (400, "unknown_n")
    assert refused("image", {"prompt": "a", "modelOptions": {"style": "x"}}, adapter) == (400, "unknown_option")


@pytest.mark.parametrize(
    ("head", "media_type"),
    [
        (b"ID3\x04", "audio/mpeg"),
        (b"\xff\xfb\x90", "audio/mpeg"),
        (b"OggS", "audio/ogg"),
        (b"fLaC", "audio/flac"),
        (b"\x1a\x45\xdf\xa3", "audio/webm"),
        (b"\x00\x00\x00\x20ftypM4A ", "audio/mp4"),
    ],
)
def test_the_bytes_say_what_audio_is(head: bytes, media_type: str) -> None:
    """Browsers record many formats and name them in many ways; the bytes decide."""
    read = parse_input(
        "transcription", {"audio": f"data:video/x-any;base64,{base64.b64encode(head + bytes(9)).decode()}"}
    )
    assert read.files()[0].media.media_type == media_type
    given = parse_input("transcription", {"audio": Media(head + bytes(9), "application/octet-stream")})
    assert given == read


def test_the_declared_type_counts_where_the_bytes_say_nothing() -> None:
    """A raw format is believed: the provider knows it."""
    audio = base64.b64encode(bytes(9)).decode()
    read = parse_input("transcription", {"audio": f"data:audio/aac;base64,{audio}"})
    assert read.files()[0].media == Media(bytes(9), "audio/aac")
    assert refused("transcription", {"audio": audio}) == (400, "unknown_format")


def test_an_adapter_without_limits() -> None:
    """The general limits hold for it."""

    class Plain:
        model = "plain"

    plain: Any = Plain()
    assert refused("image", {"prompt": "a", "numberOfImages": 10}, plain) is None
    assert refused("image", {"prompt": "a", "numberOfImages": 11}, plain) == (413, "too_many_images")
    assert provider_of(plain) == "custom"
    assert provider_of(DemoImages()) == "demo"
