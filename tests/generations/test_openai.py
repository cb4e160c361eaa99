"""OpenAI's adapters against npm's aimock, and against a provider of videos that fails as told."""

from __future__ import annotations

import asyncio
import base64
import json
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from durable_chat import (
    OpenAIImages,
    OpenAISpeech,
    OpenAITranscription,
    OpenAIVideo,
    ProviderError,
    generate_image,
    generate_speech,
    generate_transcription,
    generate_video,
    get_video_job_status,
)
from durable_chat.errors import InvalidRequest, TooLarge, Unauthorized
from durable_chat.generations.adapters import RefusedError, TransientError
from durable_chat.generations.choosing import choose_adapter
from durable_chat.generations.demo.images import draw
from durable_chat.generations.inputs import ImageInput, VideoInput
from durable_chat.generations.media import Media
from durable_chat.generations.openai.adapters import refusal
from durable_chat.generations.results import ImageResult, Segment, Usage, VideoResult, Word
from durable_chat.generations.running import Outside, run_generation
from durable_chat.generations.videos import Polling
from tests.generations.sora import CLIP, CUT, Sora, serving
from tests.generations.test_inputs import wav
from tests.models.aimock import KEY, Aimock

PNG = draw("x", 8, 8)
SOUND = b"ID3 sound"
SEGMENTS = [{"id": 0, "text": " Hello there.", "start": 0.0, "end": 1.5}]
WORDS = [{"word": "Hello", "start": 0.0, "end": 0.5}]


def on(endpoint: str, response: dict[str, Any], words: str | None = None, **match: Any) -> dict[str, Any]:
    said = {} if words is None else {"userMessage": words}
    return {"match": {"endpoint": endpoint, **said, **match}, "response": response}


def failing(status: int, code: str | None = None) -> dict[str, Any]:
    """The text contains the key, as a careless proxy's may."""
    return {"error": {"message": f"refused for {KEY}", "type": "error", "code": code}, "status": status}


PICTURE = {"image": {"b64Json": base64.b64encode(PNG).decode(), "revisedPrompt": "A red fox"}}
FIXTURES = [
    on("image", PICTURE, "a fox"),
    on("image", {"images": [PICTURE["image"]] * 2}, "two foxes"),
    on("image", {"image": {"url": "http://127.0.0.1:9/picture.png"}}, "linked"),
    on("image", failing(429), "slow down", sequenceIndex=0),
    on("image", PICTURE, "slow down", sequenceIndex=1),
    on("image", failing(400, "moderation_blocked"), "bad thing"),
    on("image", failing(429, "insufficient_quota"), "no credit"),
    on("image", failing(500), "broken"),
    on("speech", {"audio": base64.b64encode(SOUND).decode(), "format": "mp3"}, "hello"),
    on(
        "transcription",
        {
            "transcription": {
                "text": "Hello there.",
                "language": "english",
                "duration": 1.5,
                "segments": SEGMENTS,
                "words": WORDS,
            }
        },
    ),
    on("video", {"video": {"id": "video_7", "status": "completed"}}, "a fox"),
]


@pytest.fixture(scope="module")
def aimock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aimock]:
    mock = Aimock(tmp_path_factory.mktemp("aimock"), FIXTURES)
    mock.start()
    yield mock
    mock.kill()


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of the tests decides nothing."""
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
async def images(aimock: Aimock) -> AsyncIterator[OpenAIImages]:
    made = OpenAIImages(key=KEY, base_url=f"{aimock.url}/v1")
    yield made
    await made.aclose()


async def test_an_image(images: OpenAIImages) -> None:
    """The picture's bytes and the prompt that was drawn."""
    result = await generate_image(adapter=images, prompt="a fox", size="1024x1536", model_options={"quality": "low"})
    (image,) = result.images
    assert image.media == Media(PNG, "image/png")
    assert image.revised_prompt == "A red fox"
    assert result.model == "gpt-image-1"


async def test_two_images(images: OpenAIImages) -> None:
    """Each picture has its file."""
    result = await generate_image(adapter=images, prompt="two foxes", number_of_images=2)
    assert [file.path for file in result.files()] == ["images[0]", "images[1]"]


async def test_an_edit(images: OpenAIImages) -> None:
    """A prompt with pictures changes them."""
    source = {"type": "data", "value": base64.b64encode(PNG).decode()}
    prompt = [{"type": "text", "content": "a fox"}, {"type": "image", "source": source}]
    assert (await generate_image(adapter=images, prompt=prompt)).images[0].media is not None


async def test_a_picture_at_an_address(images: OpenAIImages) -> None:
    """A compatible server may answer with an address. It is kept where the file cannot be fetched."""
    context = Outside("s", "r")
    found = [item async for item in run_generation(images, ImageInput("linked"), context)]
    assert isinstance(found[-1], ImageResult)
    assert found[-1].as_json()["images"] == [{"url": "http://127.0.0.1:9/picture.png"}]
    assert found[-1].files() == ()


async def test_a_rate_limit_is_waited_out(images: OpenAIImages, monkeypatch: pytest.MonkeyPatch) -> None:
    """The provider refused and drew nothing, so it is asked again."""
    monkeypatch.setattr("durable_chat.generations.openai.adapters.RATE_LIMIT_WAIT_S", 0)
    assert (await generate_image(adapter=images, prompt="slow down")).images[0].media is not None


@pytest.mark.parametrize(
    ("prompt", "code"),
    [("bad thing", "provider_refused_request"), ("no credit", "billing"), ("broken", "provider_error")],
)
async def test_failures(images: OpenAIImages, prompt: str, code: str) -> None:
    """A failure has a code, and a text without the provider's own words, which contain the key here."""
    with pytest.raises(ProviderError) as raised:
        await generate_image(adapter=images, prompt=prompt)
    assert raised.value.code == code
    assert KEY not in f"{raised.value!r} {raised.value.__cause__!r}"


async def test_keys(aimock: Aimock) -> None:
    """A user's own key is used for one call. Without any key OpenAI is not asked, and a wrong one is told."""
    nobody = OpenAIImages(base_url=f"{aimock.url}/v1")
    assert (await generate_image(adapter=nobody, prompt="a fox", api_key=KEY)).images
    with pytest.raises(ProviderError) as raised:
        await generate_image(adapter=nobody, prompt="a fox", api_key="wrong")
    assert raised.value.code == "invalid_api_key"
    await nobody.aclose()
    for call in (generate_image, generate_video):
        adapter: Any = OpenAIImages() if call is generate_image else OpenAIVideo()
        with pytest.raises(Unauthorized):
            call(adapter=adapter, prompt="a fox")
    with pytest.raises(ProviderError) as raised:
        await OpenAIImages().generate(ImageInput("a fox"))
    assert raised.value.code == "missing_api_key"
    with pytest.raises(Unauthorized):
        OpenAIImages(key=KEY).check("two words")
    assert KEY not in repr(OpenAIImages(key=KEY))
    assert OpenAIImages(key=KEY).secrets == (KEY,)


async def test_speech(aimock: Aimock) -> None:
    """The audio's bytes, with the format's media type."""
    adapter = OpenAISpeech(key=KEY, base_url=f"{aimock.url}/v1")
    options: dict[str, Any] = {"voice": "verse", "speed": 1.5, "model_options": {"instructions": "Whisper."}}
    result = await generate_speech(adapter=adapter, text="hello", **options)
    assert (result.audio, result.format) == (Media(SOUND, "audio/mpeg"), "mp3")
    await adapter.aclose()


@pytest.mark.parametrize(("model", "has_times"), [("whisper-1", True), ("gpt-4o-transcribe", False)])
async def test_transcription(aimock: Aimock, model: str, has_times: bool) -> None:
    """Whisper gives times without being asked."""
    adapter = OpenAITranscription(model, key=KEY, base_url=f"{aimock.url}/v1")
    result = await generate_transcription(adapter=adapter, audio=wav(), prompt="A greeting.")
    assert result.text == "Hello there."
    if has_times:
        assert result.duration_s == 1.5
        assert result.language == "english"
        assert result.segments == (Segment(0, 0.0, 1.5, "Hello there."),)
        assert result.words == (Word("Hello", 0.0, 0.5),)
    assert result.as_json()["text"] == "Hello there."
    await adapter.aclose()


async def test_subtitles_and_tokens() -> None:
    """Whisper writes subtitles; other models count tokens."""
    subtitles = "1\n00:00:00,000 --> 00:00:01,500\nHello there.\n"
    usage = {"type": "tokens", "input_tokens": 14, "output_tokens": 4, "total_tokens": 18}
    async with answering("text/plain", subtitles.encode()) as url:
        adapter = OpenAITranscription("whisper-1", key=KEY, base_url=url)
        options: dict[str, Any] = {"language": "en", "response_format": "srt"}
        result = await generate_transcription(adapter=adapter, audio=wav(), **options)
        await adapter.aclose()
    assert (result.text, result.language) == (subtitles, "en")
    async with answering("application/json", json.dumps({"text": "Hello.", "usage": usage}).encode()) as url:
        adapter = OpenAITranscription("gpt-4o-transcribe", key=KEY, base_url=url)
        result = await generate_transcription(adapter=adapter, audio=wav(), response_format="text")
        await adapter.aclose()
    assert (result.text, result.usage) == ("Hello.", Usage(14, 4, 18))
    assert result.files() == ()


@pytest.mark.parametrize("body", [b"<html>", b"{", b"[]", b'{"data": []}', b"null"])
async def test_an_answer_that_is_none(body: bytes) -> None:
    """A proxy may answer with anything. It is a failure of the provider, and never an exception of this program."""
    async with answering("application/json", body) as url:
        adapter = OpenAIImages(key=KEY, base_url=url)
        with pytest.raises(ProviderError):
            await generate_image(adapter=adapter, prompt="a fox")
        video = OpenAIVideo(key=KEY, base_url=url)
        for request in (video.create(VideoInput("a fox")), video.status("video_1")):
            with pytest.raises(ProviderError):
                await request
        await adapter.aclose()
        await video.aclose()


@asynccontextmanager
async def answering(kind: str, body: bytes) -> AsyncIterator[str]:
    """A server that gives everybody this answer."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        await reader.readexactly(int((re.findall(r"content-length: (\d+)", head) or ["0"])[0]))
        head = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        writer.write(head.encode() + body)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"


async def test_a_job_at_aimock(aimock: Aimock) -> None:
    """Order and poll with another implementation of OpenAI's routes."""
    adapter = OpenAIVideo(key=KEY, base_url=f"{aimock.url}/v1")
    job = await adapter.create(VideoInput("a fox"))
    status = await adapter.status(job.job_id)
    assert (job.job_id, status.status) == ("video_7", "completed")
    with pytest.raises(ProviderError) as raised:
        await adapter.status("video_8")
    assert raised.value.code == "unknown_job"
    await adapter.aclose()


@pytest.mark.parametrize(
    ("adapter", "body", "kind"),
    [
        (OpenAIImages("gpt-image-1"), {"prompt": "a", "size": "512x512"}, InvalidRequest),
        (OpenAIImages("gpt-image-1"), {"prompt": "a", "number_of_images": 11}, TooLarge),
        (OpenAIImages("dall-e-3"), {"prompt": "a", "number_of_images": 2}, TooLarge),
        (OpenAIImages("dall-e-3"), {"prompt": "a" * 4001}, TooLarge),
        (OpenAIImages("dall-e-3"), {"prompt": "a", "model_options": {"quality": "high"}}, InvalidRequest),
        (OpenAIImages("dall-e-2"), {"prompt": "a", "size": "1792x1024"}, InvalidRequest),
    ],
)
def test_what_a_model_does_not_take(adapter: OpenAIImages, body: dict[str, Any], kind: type[Exception]) -> None:
    """It is refused before the provider is asked."""
    with pytest.raises(kind):
        generate_image(adapter=adapter, **body)


def test_what_other_models_do_not_take() -> None:
    """Voices, formats, instructions and durations that a model does not have."""
    with pytest.raises(InvalidRequest):
        generate_speech(adapter=OpenAISpeech("tts-1"), text="a", voice="verse")
    with pytest.raises(InvalidRequest):
        generate_speech(adapter=OpenAISpeech("tts-1"), text="a", model_options={"instructions": "Whisper."})
    with pytest.raises(TooLarge):
        generate_speech(adapter=OpenAISpeech(), text="a", model_options={"instructions": "x" * 4097})
    with pytest.raises(InvalidRequest):
        generate_speech(adapter=OpenAISpeech(), text="a", model_options={"instructions": 1})
    with pytest.raises(InvalidRequest):
        generate_transcription(adapter=OpenAITranscription(), audio=wav(), response_format="srt")
    with pytest.raises(InvalidRequest):
        generate_video(adapter=OpenAIVideo(), prompt="a", duration=5)


@pytest.mark.parametrize(
    ("status", "code", "retry_after", "kind", "wait_s"),
    [
        (400, None, None, RefusedError, None),
        (401, None, None, RefusedError, None),
        (404, None, None, RefusedError, None),
        (429, None, None, RefusedError, 2.0),
        (429, None, "7", RefusedError, 7.0),
        (429, "insufficient_quota", None, RefusedError, None),
        (408, None, None, TransientError, None),
        (409, None, None, TransientError, None),
        (500, None, None, TransientError, None),
        (503, None, "1", TransientError, None),
    ],
)
def test_what_a_status_says(status: int, code: str | None, retry_after: str | None, kind: Any, wait_s: Any) -> None:
    """Whether the provider did nothing, and whether it may be asked again."""
    error = refusal(status, code, retry_after)
    assert type(error) is kind
    if isinstance(error, RefusedError):
        assert error.retry_after_s == wait_s


AT_ONCE = Polling(interval_s=0)


async def watch(adapter: OpenAIVideo) -> list[Any]:
    items = run_generation(adapter, VideoInput("a fox", "720x1280", 12), Outside("s", "r"), polling=AT_ONCE)
    return [item if not isinstance(item, dict) else item["name"] async for item in items]


async def test_a_video() -> None:
    """A job is ordered with what was asked, polled, and its video downloaded with the key."""
    sora = Sora()
    async with serving(sora) as url:
        adapter = OpenAIVideo(key=KEY, base_url=url)
        *names, result = await watch(adapter)
        status = await get_video_job_status(adapter=adapter, job_id="video_1")
        await adapter.cancel("video_1")
        await adapter.aclose()
    assert names == ["durable-chat.video-ordering", "video:job:created", *["video:status"] * 3]
    assert isinstance(result, VideoResult)
    assert result.media == Media(CLIP, "video/mp4")
    assert all(words in sora.orders[0] for words in ("a fox", "720x1280", "12", "sora-2"))
    assert sora.seen[0] == "POST /v1/videos"
    assert sora.seen[-1] == "DELETE /v1/videos/video_1"
    assert "GET /v1/videos/video_1/content" in sora.seen
    assert set(sora.keys) == {f"Bearer {KEY}"}
    assert status.url == f"data:video/mp4;base64,{base64.b64encode(CLIP).decode()}"
    assert status.as_json()["expiresAt"] == "2030-01-01T00:00:00.000Z"


async def test_a_picture_to_start_from() -> None:
    """The picture is sent with the order."""
    sora = Sora()
    async with serving(sora) as url:
        adapter = OpenAIVideo(key=KEY, base_url=url)
        await adapter.create(VideoInput("a fox", references=(Media(PNG, "image/png"),)))
        await adapter.aclose()
    assert PNG.decode("latin-1") in sora.orders[0]


async def test_failing_polls_and_downloads() -> None:
    """Whatever happens while a job is followed, it is followed, and it is the only one."""
    sora = Sora()
    sora.faults = {"GET": [500, CUT, (429, {"retry-after": "1"}), 503], "CONTENT": [CUT, 502]}
    async with serving(sora) as url:
        adapter = OpenAIVideo(key=KEY, base_url=url)
        result = (await watch(adapter))[-1]
        await adapter.aclose()
    assert isinstance(result, VideoResult)
    assert result.media == Media(CLIP, "video/mp4")
    assert len(sora.orders) == 1


@pytest.mark.parametrize("fault", [CUT, 500, 503])
async def test_a_lost_order(fault: Any) -> None:
    """The order was sent and its answer is lost: it is not sent again."""
    sora = Sora()
    sora.faults = {"POST": [fault]}
    async with serving(sora) as url:
        adapter = OpenAIVideo(key=KEY, base_url=url)
        with pytest.raises(ProviderError) as raised:
            await watch(adapter)
        await adapter.aclose()
    assert raised.value.code == "order_unknown"
    assert sora.seen == ["POST /v1/videos"]


async def test_a_refused_order() -> None:
    """A rate limit is waited out: there was no job."""
    sora = Sora()
    sora.faults = {"POST": [(429, {"retry-after": "0"})]}
    async with serving(sora) as url:
        adapter = OpenAIVideo(key=KEY, base_url=url)
        assert isinstance((await watch(adapter))[-1], VideoResult)
        await adapter.aclose()
    assert len(sora.orders) == 1
    assert sora.seen[:2] == ["POST /v1/videos"] * 2


async def test_an_order_that_was_never_sent(nobody: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody listens, nothing was ordered, and the person is told so."""
    monkeypatch.setattr("durable_chat.generations.openai.adapters.RATE_LIMIT_WAIT_S", 0)
    adapter = OpenAIVideo(key=KEY, base_url=nobody)
    with pytest.raises(RefusedError) as raised:
        await watch(adapter)
    assert raised.value.code == "provider_unreachable"
    await adapter.aclose()


async def test_a_failed_job() -> None:
    """The provider's reason is told, unless it could hold a secret."""
    for reason, shown in (
        ("The prompt is not allowed.", "The prompt is not allowed."),
        (f"x {KEY}", "The model failed to answer."),
    ):
        sora = Sora(failure=reason)
        async with serving(sora) as url:
            adapter = OpenAIVideo(key=KEY, base_url=url)
            with pytest.raises(ProviderError) as raised:
                await watch(adapter)
            await adapter.aclose()
        assert (raised.value.message, raised.value.code) == (shown, "video_failed")


def test_adapters_by_name() -> None:
    """A name chooses the adapter and the model."""
    made = [
        choose_adapter(activity, "openai:m") for activity in ("image", "speech", "transcription", "summary", "video")
    ]
    assert [adapter.model for adapter in made] == ["m"] * 5
    assert choose_adapter("summary", "anthropic:c").model == "c"
    assert Usage(1, 2, 3).as_json() == {"promptTokens": 1, "completionTokens": 2, "totalTokens": 3}
