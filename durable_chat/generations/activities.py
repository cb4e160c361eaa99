"""
The activities as functions, with TanStack AI's names in Python's spelling.

With `stream=False` (the default), await the result. With `stream=True`, iterate over AG-UI chunks: RUN_STARTED,
progress, `generation:result`, and RUN_FINISHED, or RUN_ERROR. Both raise InvalidRequest, TooLarge and Unauthorized when
they are called, before the provider is asked. Times are in seconds. An adapter may also be given by its name: `demo`,
or `openai:MODEL`.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Literal, TypedDict, Unpack, overload

from durable_chat.errors import DurableChatError
from durable_chat.generations.adapters import (
    Adapter,
    ImageAdapter,
    SpeechAdapter,
    SummaryAdapter,
    TranscriptionAdapter,
    VideoAdapter,
    check_adapter_key,
    check_input,
    with_key,
)
from durable_chat.generations.choosing import adapter_of
from durable_chat.generations.events import ORDERING, RESULT, custom, now_ms
from durable_chat.generations.inputs import (
    ImageInput,
    Input,
    SpeechInput,
    SummaryInput,
    TranscriptionInput,
    VideoInput,
)
from durable_chat.generations.results import (
    ImageResult,
    Result,
    SpeechResult,
    SummaryResult,
    TranscriptionResult,
    VideoJob,
    VideoStatus,
)
from durable_chat.generations.running import Outside, run_generation
from durable_chat.generations.videos import (
    MAX_DURATION_S_DEFAULT,
    POLLING_INTERVAL_S_DEFAULT,
    Polling,
    order,
    result_of,
    status_of,
)
from durable_chat.models.base import ProviderError, shown_error
from durable_chat.transcripts import chunks
from durable_chat.transcripts.chunks import Chunk

TIMEOUT_CODE = "timeout"


class Options(TypedDict, total=False):
    """
    The options of every activity. `timeout` limits it as a whole. `api_key` is the user's own key. `run_id` and
    `thread_id` appear in the chunks of RUN_STARTED and of the end.
    """

    model_options: Mapping[str, Any]
    timeout: float
    api_key: str | None
    run_id: str
    thread_id: str


class ImageOptions(Options, total=False):
    number_of_images: int
    size: str | None


class SpeechOptions(Options, total=False):
    turns: Sequence[Any]
    voice: str | None
    format: str | None
    speed: float | None


class TranscriptionOptions(Options, total=False):
    language: str | None
    prompt: str | None
    response_format: str | None


class SummaryOptions(Options, total=False):
    max_length: int | None
    style: str | None
    focus: Sequence[str]


class VideoOptions(Options, total=False):
    size: str | None
    duration: int | None
    polling_interval: float
    max_duration: float


@overload
def generate_image(
    *, adapter: ImageAdapter | str, prompt: Any, stream: Literal[True], **options: Unpack[ImageOptions]
) -> AsyncIterator[Chunk]: ...
@overload
def generate_image(
    *, adapter: ImageAdapter | str, prompt: Any, stream: Literal[False] = False, **options: Unpack[ImageOptions]
) -> Awaitable[ImageResult]: ...
def generate_image(
    *, adapter: ImageAdapter | str, prompt: Any, stream: bool = False, **options: Unpack[ImageOptions]
) -> Any:
    """
    Draw images of `prompt`: text, or a list of text and image parts. Options: `number_of_images` (default: 1), `size`
    (for example `1024x1024`), `model_options`, `timeout`, `api_key`, `run_id`, `thread_id`.
    """
    call = _Call(options, number_of_images="numberOfImages", size="size")
    return call.start(adapter_of("image", adapter), ImageInput.parse({"prompt": prompt} | call.body), stream)


@overload
def generate_speech(
    *, adapter: SpeechAdapter | str, stream: Literal[True], text: str | None = None, **options: Unpack[SpeechOptions]
) -> AsyncIterator[Chunk]: ...
@overload
def generate_speech(
    *,
    adapter: SpeechAdapter | str,
    stream: Literal[False] = False,
    text: str | None = None,
    **options: Unpack[SpeechOptions],
) -> Awaitable[SpeechResult]: ...
def generate_speech(
    *, adapter: SpeechAdapter | str, stream: bool = False, text: str | None = None, **options: Unpack[SpeechOptions]
) -> Any:
    """
    Speak `text`, or `turns`: a list of `{text, voice}`. Options: `voice`, `format` (mp3, opus, aac, flac, wav or pcm),
    `speed` (0.25 to 4), `model_options`, `timeout`, `api_key`, `run_id`, `thread_id`.
    """
    call = _Call(options, turns="turns", voice="voice", format="format", speed="speed")
    return call.start(adapter_of("speech", adapter), SpeechInput.parse({"text": text} | call.body), stream)


@overload
def generate_transcription(
    *, adapter: TranscriptionAdapter | str, audio: Any, stream: Literal[True], **options: Unpack[TranscriptionOptions]
) -> AsyncIterator[Chunk]: ...
@overload
def generate_transcription(
    *,
    adapter: TranscriptionAdapter | str,
    audio: Any,
    stream: Literal[False] = False,
    **options: Unpack[TranscriptionOptions],
) -> Awaitable[TranscriptionResult]: ...
def generate_transcription(
    *, adapter: TranscriptionAdapter | str, audio: Any, stream: bool = False, **options: Unpack[TranscriptionOptions]
) -> Any:
    """
    Write down what `audio` says: bytes, Media, base64 or a `data:` URL. Options: `language`, `prompt`,
    `response_format`, `model_options`, `timeout`, `api_key`, `run_id`, `thread_id`.
    """
    call = _Call(options, language="language", prompt="prompt", response_format="responseFormat")
    return call.start(
        adapter_of("transcription", adapter), TranscriptionInput.parse({"audio": audio} | call.body), stream
    )


@overload
def summarize(
    *, adapter: SummaryAdapter | str, text: str, stream: Literal[True], **options: Unpack[SummaryOptions]
) -> AsyncIterator[Chunk]: ...
@overload
def summarize(
    *, adapter: SummaryAdapter | str, text: str, stream: Literal[False] = False, **options: Unpack[SummaryOptions]
) -> Awaitable[SummaryResult]: ...
def summarize(
    *, adapter: SummaryAdapter | str, text: str, stream: bool = False, **options: Unpack[SummaryOptions]
) -> Any:
    """
    Summarize `text`. Options: `max_length` (in words), `style` (bullet-points, paragraph or concise), `focus` (a list
    of topics), `model_options`, `timeout`, `api_key`, `run_id`, `thread_id`.
    """
    call = _Call(options, max_length="maxLength", style="style", focus="focus")
    return call.start(adapter_of("summary", adapter), SummaryInput.parse({"text": text} | call.body), stream)


@overload
def generate_video(
    *, adapter: VideoAdapter | str, prompt: Any, stream: Literal[True], **options: Unpack[VideoOptions]
) -> AsyncIterator[Chunk]: ...
@overload
def generate_video(
    *, adapter: VideoAdapter | str, prompt: Any, stream: Literal[False] = False, **options: Unpack[VideoOptions]
) -> Awaitable[VideoJob]: ...
def generate_video(
    *, adapter: VideoAdapter | str, prompt: Any, stream: bool = False, **options: Unpack[VideoOptions]
) -> Any:
    """
    Order a video. Without `stream`, return its job, for `get_video_job_status`; with it, follow the job to its end.
    Options: `size` (for example `1280x720`), `duration`, `polling_interval` (default: 2), `max_duration` (default:
    600), `model_options`, `timeout`, `api_key`, `run_id`, `thread_id`.
    """
    interval_s = options.pop("polling_interval", POLLING_INTERVAL_S_DEFAULT)
    polling = Polling(interval_s, options.pop("max_duration", MAX_DURATION_S_DEFAULT), fetch=False)
    call = _Call(options, size="size", duration="duration")
    request = VideoInput.parse({"prompt": prompt} | call.body)
    chosen: Any = adapter_of("video", adapter)
    if stream:
        return call.start(chosen, request, stream, polling)
    check_input(chosen, request)
    check_adapter_key(chosen, call.context.api_key)
    return call.limited(order(with_key(chosen, call.context.api_key), request))


async def get_video_job_status(*, adapter: VideoAdapter | str, job_id: str, api_key: str | None = None) -> VideoStatus:
    """
    Return the state of a video job, with the address of the video when it is completed: the provider's, or a `data:`
    URL if the provider has no public one.
    """
    mine: VideoAdapter = with_key(adapter_of("video", adapter), api_key)
    status = await status_of(mine, job_id)
    if status.status != "completed" or status.url is not None:
        return status
    result = await result_of(mine, status, fetch=False)
    url = await asyncio.to_thread(result.media.data_url) if result.media is not None else None
    return VideoStatus(job_id, "completed", 100, None, url, status.expires_at, status.usage)


class _Call:
    """The options of one call, checked: those of the activity are its body, the others are those of every activity."""

    def __init__(self, options: Mapping[str, Any], **names: str) -> None:
        names |= {"model_options": "modelOptions"}
        common = ("timeout", "api_key", "run_id", "thread_id")
        unknown = options.keys() - names.keys() - set(common)
        if unknown:
            known = ", ".join(sorted([*names, *common]))
            raise TypeError(f"Unknown option {min(unknown)!r}. The options are: {known}.")
        self.body = {names[key]: value for key, value in options.items() if key in names and value is not None}
        self.timeout_s: float | None = options.get("timeout")
        self.context = Outside(
            options.get("thread_id") or f"thread-{uuid.uuid4().hex}",
            options.get("run_id") or f"run-{uuid.uuid4().hex}",
            options.get("api_key"),
        )

    def start(self, adapter: Adapter, request: Input, stream: bool, polling: Polling | None = None) -> Any:
        items = run_generation(adapter, request, self.context, polling=polling or Polling(fetch=False))
        check_adapter_key(adapter, self.context.api_key)
        return self._chunks(items) if stream else self.limited(_last(items))

    async def limited(self, work: Awaitable[Any]) -> Any:
        """Await the work for at most the call's timeout. Raises ProviderError `timeout`."""
        try:
            async with asyncio.timeout(self.timeout_s):
                return await work
        except TimeoutError:
            if self.timeout_s is None:  # the adapter's own
                raise
            raise self._timed_out() from None

    async def _chunks(self, items: AsyncGenerator[Chunk | Result, None]) -> AsyncGenerator[Chunk, None]:
        """Yield the whole run. A failure is its last chunk and is not raised."""
        run_id, thread_id = self.context.run_id, self.context.session_id
        yield chunks.run_started(run_id, thread_id, timestamp=now_ms())
        try:
            async with aclosing(self._timed(items)) as timed:
                async for item in timed:
                    if not isinstance(item, dict):
                        yield custom(RESULT, await asyncio.to_thread(item.as_json))
                    elif item.get("name") != ORDERING:  # is for logs
                        yield item
        except Exception as error:  # noqa: BLE001 - shown as the end of the run
            shown = _shown(error)
            message = chunks.safe_message(shown.message)
            yield chunks.run_error(run_id, thread_id, timestamp=now_ms(), message=message, code=shown.code)
            return
        yield chunks.run_finished(run_id, thread_id, timestamp=now_ms())

    async def _timed(self, items: AsyncGenerator[Chunk | Result, None]) -> AsyncGenerator[Chunk | Result, None]:
        """
        Yield the items until the call's timeout. The reader's own time between two items counts, but cannot be cut.
        """
        loop = asyncio.get_running_loop()
        deadline = None if self.timeout_s is None else loop.time() + self.timeout_s
        async with aclosing(items):
            while True:
                try:
                    async with asyncio.timeout_at(deadline) as limit:
                        item = await anext(items)
                except StopAsyncIteration:
                    return
                except TimeoutError:
                    if not limit.expired():
                        raise
                    raise self._timed_out() from None
                yield item

    def _timed_out(self) -> ProviderError:
        return ProviderError(f"Activity timed out after {round((self.timeout_s or 0) * 1000)}ms", TIMEOUT_CODE)


async def _last(items: AsyncGenerator[Chunk | Result, None]) -> Result:
    """Return the result of a run, which is its last item."""
    async with aclosing(items):
        async for item in items:
            if not isinstance(item, dict):
                return item
    raise AssertionError("a run yields a result or raises")


def _shown(error: Exception) -> ProviderError:
    """Return the error to show. This project's own errors are written for people."""
    if isinstance(error, DurableChatError):
        return ProviderError(error.message, error.code)
    return shown_error(error)
