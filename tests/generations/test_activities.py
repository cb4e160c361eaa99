"""The activities as functions: a result to await, or a stream of chunks in TanStack AI's shapes."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from typing import Any

import pytest

from durable_chat import (
    DemoImages,
    DemoSpeech,
    DemoSummary,
    DemoTranscription,
    DemoVideo,
    ImageInput,
    ImageResult,
    ModelSummarizer,
    ProviderError,
    StartError,
    Turn,
    VideoInput,
    generate_image,
    generate_speech,
    generate_transcription,
    generate_video,
    get_video_job_status,
    summarize,
)
from durable_chat.errors import InvalidRequest, TooLarge, Unauthorized
from durable_chat.generations.results import SummaryResult, Usage
from tests.generations.own import CLIP, Images, PlainSummaries, Videos


async def chunks_of(stream: AsyncIterator[Any]) -> list[dict[str, Any]]:
    """The chunks, each with a time, which is taken away."""
    found = [chunk async for chunk in stream]
    assert all(chunk.pop("timestamp") > 0 for chunk in found)
    return found


def named(chunks: list[dict[str, Any]]) -> list[str]:
    return [chunk.get("name", chunk["type"]) for chunk in chunks]


IDS = {"run_id": "run-1", "thread_id": "thread-1"}
WHOLE = {"threadId": "thread-1", "runId": "run-1"}


async def test_a_stream_is_a_whole_run() -> None:
    """It begins with RUN_STARTED, ends with RUN_FINISHED, and has the result just before."""
    stream = generate_image(adapter=Images(), prompt="a fox", stream=True, run_id="run-1", thread_id="thread-1")
    started, result, finished = await chunks_of(stream)
    assert started == {"type": "RUN_STARTED", **WHOLE}
    assert (result["type"], result["name"]) == ("CUSTOM", "generation:result")
    assert result["value"] == {
        "id": "img-1",
        "model": "own-1",
        "images": [{"b64Json": base64.b64encode(b"\x89PNG\r\n\x1a\n").decode(), "revisedPrompt": "A FOX"}],
    }
    assert finished["type"] == "RUN_FINISHED"
    assert finished["metadata"] == {"tanstack": {"finishReason": "stop"}}
    assert {key: finished[key] for key in WHOLE} == WHOLE


async def test_a_result_is_awaited() -> None:
    """Without `stream` the result is an object with bytes."""
    result = await generate_image(adapter=Images(), prompt="a fox")
    assert result.images[0].media is not None
    assert result.images[0].media.data == b"\x89PNG\r\n\x1a\n"


async def test_progress_is_told() -> None:
    """Whatever the adapter reports is a chunk of its own, with an object in it."""
    found = await chunks_of(generate_image(adapter=DemoImages(0), prompt="a fox", stream=True))
    told = [chunk["value"] for chunk in found if chunk.get("name") == "generation:progress"]
    assert [value["progress"] for value in told] == [25, 50, 75, 100]
    assert all(value["message"] for value in told)


async def test_an_adapter_by_its_name() -> None:
    """A name stands for an adapter, as a model's does elsewhere; an unknown one is refused at once."""
    found = await summarize(adapter="demo", text="Cats sleep. Dogs bark.")
    assert found.summary == "Cats sleep. Dogs bark."
    for name in ("demo:x", "nobody:x", ""):
        with pytest.raises(StartError):
            generate_image(adapter=name, prompt="a")


@pytest.mark.parametrize("stream", [False, True])
def test_bad_input_is_refused_at_the_call(stream: bool) -> None:
    """Nothing has to be awaited to see it, so that a route can answer 400 or 413."""
    calls: list[Any] = [
        lambda: generate_image(adapter=Images(), prompt="", stream=stream),  # type: ignore[call-overload]
        lambda: generate_speech(adapter=DemoSpeech(), text="a", voice="nobody", stream=stream),  # type: ignore[call-overload]
        lambda: generate_transcription(adapter=DemoTranscription(), audio={}, stream=stream),  # type: ignore[call-overload]
        lambda: summarize(adapter=DemoSummary(), text="", stream=stream),  # type: ignore[call-overload]
        lambda: generate_video(adapter=DemoVideo(), prompt="a", duration=5, stream=stream),  # type: ignore[call-overload]
    ]
    for call in calls:
        with pytest.raises(InvalidRequest):
            call()
    with pytest.raises(TooLarge):
        generate_image(adapter=Images(), prompt="a", number_of_images=11)


def test_a_misspelt_option_is_an_error() -> None:
    """As with any function of Python."""
    with pytest.raises(TypeError, match="number_of_images"):
        generate_image(adapter=Images(), prompt="a", count=2)  # type: ignore[call-overload]


class Failing:
    """An adapter whose provider fails."""

    model = "failing"

    def __init__(self, error: Exception) -> None:
        self.error = error

    async def generate(self, request: ImageInput, /) -> ImageResult:
        raise self.error


@pytest.mark.parametrize(
    ("error", "message", "code"),
    [
        (ProviderError("No credit.", "billing"), "No credit.", "billing"),
        (InvalidRequest("Too blue.", code="too_blue"), "Too blue.", "too_blue"),
        (KeyError("sk-123 at /home"), "The model failed to answer.", "provider_error"),
        (ProviderError("refused for sk-12345678901234567890"), "The model failed to answer.", "provider_error"),
    ],
)
async def test_a_failure_is_the_end_of_the_stream(error: Exception, message: str, code: str) -> None:
    """RUN_ERROR takes the place of the result. The text of a foreign exception is never shown; awaiting raises it."""
    options: dict[str, Any] = IDS
    started, failed = await chunks_of(generate_image(adapter=Failing(error), prompt="a", stream=True, **options))
    assert started["type"] == "RUN_STARTED"
    assert failed == {"type": "RUN_ERROR", "message": message, "code": code, **WHOLE}
    with pytest.raises(type(error)):
        await generate_image(adapter=Failing(error), prompt="a")


class Silent:
    """An adapter whose provider never answers."""

    model = "silent"

    async def generate(self, request: ImageInput, /) -> ImageResult:
        await asyncio.Event().wait()
        raise AssertionError


async def test_a_timeout() -> None:
    """A timeout limits the whole activity, in both forms, with TanStack AI's words."""
    found = await chunks_of(generate_image(adapter=Silent(), prompt="a", stream=True, timeout=0.05))
    assert (found[-1]["message"], found[-1]["code"]) == ("Activity timed out after 50ms", "timeout")
    with pytest.raises(ProviderError) as raised:
        await generate_image(adapter=Silent(), prompt="a", timeout=0.05)
    assert raised.value.code == "timeout"


async def test_a_timeout_of_the_provider_is_not_ours() -> None:
    """Without a timeout of the call, the adapter's own is a failure of the provider."""
    found = await chunks_of(generate_image(adapter=Failing(TimeoutError()), prompt="a", stream=True, timeout=60))
    assert found[-1]["code"] == "provider_error"


async def test_an_adapter_without_a_result() -> None:
    """An adapter that forgets its result, or yields something else, is told so."""

    class Odd:
        model = "odd"

        def __init__(self, *items: Any) -> None:
            self.items = items

        async def generate(self, request: ImageInput, /) -> AsyncIterator[Any]:
            for item in self.items:
                yield item

    for items, code in (((), "no_result"), ((7,), "invalid_result")):
        with pytest.raises(ProviderError) as raised:
            await generate_image(adapter=Odd(*items), prompt="a")
        assert raised.value.code == code


async def test_a_plain_function_is_an_adapter() -> None:
    """A function that blocks runs in a thread."""
    assert (await summarize(adapter=PlainSummaries(), text="Hello there")).summary == "Hello"


async def test_speech_and_back() -> None:
    """What the demo speaks, it writes down again."""
    speech = await generate_speech(adapter=DemoSpeech(0), text="Good morning.")
    told = await generate_transcription(adapter=DemoTranscription(0), audio=speech.audio)
    assert told.text == "Good morning."
    assert told.duration_s == speech.duration_s
    value = (await chunks_of(generate_speech(adapter=DemoSpeech(0), text="Good morning.", stream=True)))[-2]["value"]
    assert value.keys() == {"id", "model", "audio", "format", "contentType", "duration"}
    assert base64.b64decode(value["audio"])[:4] == b"RIFF"
    assert speech.as_json({"audio": "/kept"})["audio"] == ""


async def test_the_text_of_a_summary_is_streamed() -> None:
    """The pieces come as a message, then the result, then the end."""
    found = await chunks_of(summarize(adapter=DemoSummary(0), text="Cats sleep. Dogs bark.", stream=True))
    kinds = named(found)
    assert kinds[:2] == ["RUN_STARTED", "TEXT_MESSAGE_START"]
    assert kinds[-3:] == ["TEXT_MESSAGE_END", "generation:result", "RUN_FINISHED"]
    assert "".join(chunk.get("delta", "") for chunk in found) == found[-2]["value"]["summary"]
    assert found[-2]["value"]["usage"] == {"promptTokens": 4, "completionTokens": 4, "totalTokens": 8}


async def test_any_model_summarizes() -> None:
    """A function that answers chats is given the text and the wishes, and its words are the summary."""
    asked: list[Turn] = []

    async def model(turn: Turn) -> AsyncIterator[Any]:
        asked.append(turn)
        yield "Cats "
        yield {"type": "TEXT_MESSAGE_CONTENT", "messageId": "m", "delta": "sleep."}
        usage = [{"inputTokens": 5, "outputTokens": 2}, {"inputTokens": 1, "outputTokens": 1}]
        yield {"type": "RUN_FINISHED", "threadId": "s", "runId": "r", "usage": usage}

    adapter = ModelSummarizer(model, name="mine")
    options: dict[str, Any] = {"style": "concise", "max_length": 9, "focus": ["cats"], "api_key": "k"}
    result = await summarize(adapter=adapter, text="Cats sleep all day.", **options)
    assert (result.summary, result.model, result.usage) == ("Cats sleep.", "mine", Usage(6, 3, 9))
    assert all(words in asked[0].text for words in ("Cats sleep all day.", "at most 9 words", "cats", "two sentences"))
    assert asked[0].api_key == "k"
    found = named(await chunks_of(summarize(adapter=adapter, text="Cats sleep.", stream=True)))
    assert found[2:4] == ["TEXT_MESSAGE_CONTENT"] * 2
    assert found[-2:] == ["generation:result", "RUN_FINISHED"]


async def test_a_model_that_fails_or_says_nothing() -> None:
    """Its failure is that of the summary; so is an empty answer."""

    async def fails(turn: Turn) -> AsyncIterator[Any]:
        yield "Cats"
        yield {"type": "RUN_ERROR", "message": "No credit.", "code": "billing"}

    async def is_silent(turn: Turn) -> AsyncIterator[Any]:
        yield ""

    for model, code in ((fails, "billing"), (is_silent, "no_result")):
        with pytest.raises(ProviderError) as raised:
            await summarize(adapter=ModelSummarizer(model), text="a")
        assert raised.value.code == code


async def test_a_summarizer_has_its_models_key_and_connections() -> None:
    """What a server asks of a model, it may ask of a summarizer."""

    class Keyed:
        name = "keyed"
        closed = False

        def __call__(self, turn: Turn, /) -> str:
            return "x"

        def check(self, api_key: str | None) -> None:
            if api_key is None:
                raise Unauthorized("This model needs a key.")

        async def aclose(self) -> None:
            self.closed = True

    model = Keyed()
    adapter = ModelSummarizer(model)
    adapter.check("key")
    with pytest.raises(Unauthorized):
        adapter.check(None)
    await adapter.aclose()
    assert (adapter.model, model.closed) == ("keyed", True)
    plain = ModelSummarizer(lambda turn: "x")
    plain.check(None)
    await plain.aclose()


def test_a_long_text_for_a_small_model() -> None:
    """The model's context is a limit of its own."""
    adapter = ModelSummarizer(lambda turn: "x", text_chars_max=3)
    with pytest.raises(TooLarge):
        summarize(adapter=adapter, text="abcd")


async def test_a_video_in_one_stream() -> None:
    """The job's id, its states, the result; what a log needs to resume it is not in it."""
    adapter = Videos(polls=["pending", "processing", "completed"])
    options: dict[str, Any] = IDS
    found = await chunks_of(
        generate_video(adapter=adapter, prompt="a fox", stream=True, polling_interval=0, duration=8, **options)
    )
    assert named(found) == [
        "RUN_STARTED",
        "video:job:created",
        *["video:status"] * 3,
        "generation:result",
        "RUN_FINISHED",
    ]
    assert found[1]["value"] == {"jobId": "job-1"}
    assert found[2]["value"] == {"jobId": "job-1", "status": "pending"}
    assert found[-2]["value"] == {"jobId": "job-1", "status": "completed", "url": CLIP.data_url()}
    assert adapter.ordered == [VideoInput("a fox", None, 8)]


async def test_a_video_that_takes_too_long() -> None:
    """`max_duration` ends the stream with TanStack AI's words."""
    adapter = Videos(polls=["processing"])
    stream = generate_video(adapter=adapter, prompt="a", stream=True, polling_interval=0, max_duration=0)
    assert (await chunks_of(stream))[-1]["message"] == "Video generation timed out"


async def test_a_video_by_hand() -> None:
    """Order a job, and ask for its state until it is completed."""
    clock = [1000.0]
    adapter = DemoVideo(job_s=10, now_s=lambda: clock[0])
    job = await generate_video(adapter=adapter, prompt="a fox", size="720x1280", duration=4)
    states = []
    for seconds in (0.5, 5, 10):
        clock[0] = 1000.0 + seconds
        states.append(await get_video_job_status(adapter=adapter, job_id=job.job_id))
    assert [(state.status, state.progress) for state in states] == [
        ("pending", 5),
        ("processing", 50),
        ("completed", 100),
    ]
    told = states[-1].as_json()
    assert told["url"].startswith("data:video/webm;base64,")
    assert told["expiresAt"] == "1970-01-01T01:16:50.000Z"
    with pytest.raises(ProviderError):
        await get_video_job_status(adapter=adapter, job_id="somebody-else's")


async def test_a_reader_that_stops() -> None:
    """Closing the stream ends the work at once."""
    closed = asyncio.Event()

    class Slow:
        model = "slow"

        async def generate(self, request: Any, /) -> AsyncIterator[Any]:
            try:
                yield "one"
                await asyncio.Event().wait()
                yield SummaryResult("x", "y", "z")
            finally:
                closed.set()

    stream: Any = summarize(adapter=Slow(), text="a", stream=True)
    async for chunk in stream:
        if chunk["type"] == "TEXT_MESSAGE_CONTENT":
            break
    await stream.aclose()
    assert closed.is_set()
