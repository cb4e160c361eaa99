"""Videos are ordered once, whatever fails: the log says that an order is about to be made, and which job it is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest

from durable_chat import generate_image
from durable_chat.errors import InvalidRequest, Unauthorized
from durable_chat.generations.adapters import RefusedError, TransientError
from durable_chat.generations.events import JOB_CREATED, JOB_STATUS, ORDERING
from durable_chat.generations.fetching import fetch
from durable_chat.generations.inputs import ImageInput, VideoInput
from durable_chat.generations.media import Media
from durable_chat.generations.refusals import ATTEMPTS_MAX, RETRY_AFTER_S_MAX
from durable_chat.generations.results import GeneratedImage, ImageResult, Result, VideoJob, VideoResult, VideoStatus
from durable_chat.generations.running import Outside, resume_generation, run_generation
from durable_chat.generations.videos import JOB_ID_CHARS_MAX, Polling, cancel
from durable_chat.models.base import ProviderError
from tests.generations.own import CLIP, Images, Videos

AT_ONCE = Polling(interval_s=0)
A_FOX = VideoInput("a fox")


class Log:
    """A run whose chunks are durable when `saved` returns. `saved_at` is how many there were each time."""

    def __init__(self) -> None:
        self.chunks: list[dict[str, Any]] = []
        self.saved_at: list[int] = []
        self.context = Outside("s", "run-1", None, self.save)

    async def save(self) -> None:
        self.saved_at.append(len(self.chunks))

    @property
    def names(self) -> list[str]:
        return [chunk["name"] for chunk in self.chunks]

    async def write(self, items: AsyncIterator[Any] | None) -> Result | None:
        """Write the chunks and return the result."""
        assert items is not None
        async for item in items:
            if not isinstance(item, dict):
                return item  # type: ignore[no-any-return]
            self.chunks.append(item)
        return None


async def run(adapter: Videos, log: Log, polling: Polling = AT_ONCE) -> Result | None:
    return await log.write(run_generation(adapter, A_FOX, log.context, polling=polling))


async def resume(adapter: Videos, log: Log, said: Sequence[dict[str, Any]]) -> Result | None:
    return await log.write(resume_generation(adapter, A_FOX, log.context, said, polling=AT_ONCE))


async def test_each_step_is_durable_before_the_next() -> None:
    """The order is made when the log says so, and the job is polled when the log has its id."""
    log, adapter = Log(), Videos(polls=["pending", "processing", "completed"])
    seen: list[tuple[int, int]] = []

    async def save() -> None:
        seen.append((len(adapter.ordered), len(adapter.polled)))

    context = Outside("s", "run-1", None, save)
    result = await log.write(run_generation(adapter, A_FOX, context, polling=AT_ONCE))
    assert log.names == [ORDERING, JOB_CREATED, JOB_STATUS, JOB_STATUS, JOB_STATUS]
    assert seen == [(0, 0), (1, 0)]
    assert log.chunks[1]["value"] == {"jobId": "job-1"}
    assert [chunk["value"]["status"] for chunk in log.chunks[2:]] == ["pending", "processing", "completed"]
    assert result == VideoResult("job-1", "own-video", CLIP)
    assert isinstance(result, VideoResult)
    assert result.files()[0].path == "video"
    assert result.as_json({"video": "/kept"}) == {"jobId": "job-1", "status": "completed", "url": "/kept"}


async def test_a_job_in_the_log_is_polled_again() -> None:
    """After a crash the same job goes on: nothing is ordered, and the first poll does not wait."""
    log, adapter = Log(), Videos()
    said: list[dict[str, Any]] = [
        {"type": "CUSTOM", "name": ORDERING},
        {"type": "CUSTOM", "name": JOB_CREATED, "value": {"jobId": "job-7"}},
    ]
    slow = Polling(interval_s=3600)
    result = await log.write(resume_generation(adapter, A_FOX, log.context, said, polling=slow))
    assert isinstance(result, VideoResult)
    assert (result.job_id, adapter.ordered, adapter.polled) == ("job-7", [], ["job-7"])
    assert log.names == [JOB_STATUS]


async def test_an_order_without_a_job_is_never_made_again() -> None:
    """A crash between the two leaves an order that may exist. The run ends and says so."""
    log, adapter = Log(), Videos()
    with pytest.raises(ProviderError) as raised:
        await resume(adapter, log, [{"type": "CUSTOM", "name": ORDERING, "value": {}}])
    assert raised.value.code == "order_unknown"
    assert (adapter.ordered, adapter.polled) == ([], [])


async def test_a_job_of_a_users_own_key() -> None:
    """A user's key is not stored. After a crash their job is followed only if the key comes again."""

    class Keyed(Videos):
        def with_key(self, key: str) -> Videos:
            return Videos()

    log = Log()
    mine = Outside("s", "run-1", "key", log.save)
    items = run_generation(Keyed(), A_FOX, mine, polling=AT_ONCE)
    assert isinstance(await log.write(items), VideoResult)
    assert log.chunks[0]["value"] == {"model": "own-video", "ownKey": True}
    with pytest.raises(ProviderError) as raised:
        await resume(Keyed(), Log(), log.chunks)
    assert raised.value.code == "key_missing"
    again = resume_generation(Keyed(), A_FOX, mine, log.chunks, polling=AT_ONCE)
    assert isinstance(await Log().write(again), VideoResult)


@pytest.mark.parametrize("said", [[], [{"type": "CUSTOM", "name": "other", "value": {"jobId": "x"}}]])
async def test_what_was_never_ordered_is_ordered(said: list[dict[str, Any]]) -> None:
    """A crash before the order costs nothing, so the video is ordered now."""
    log, adapter = Log(), Videos()
    assert isinstance(await resume(adapter, log, said), VideoResult)
    assert adapter.ordered == [A_FOX]


def test_other_generations_do_not_go_on() -> None:
    """The request for a picture ended with the process that sent it."""
    assert resume_generation(Images(), ImageInput("a"), Outside("s", "r"), []) is None


@pytest.mark.parametrize("error", [ConnectionResetError(), TimeoutError(), TransientError("lost"), ValueError("odd")])
async def test_an_order_whose_answer_is_lost_is_not_repeated(error: Exception) -> None:
    """The provider may have accepted it."""
    log, adapter = Log(), Videos(orders=[error, "job-2"])
    with pytest.raises(ProviderError) as raised:
        await run(adapter, log)
    assert raised.value.code == "order_unknown"
    assert len(adapter.ordered) == 1
    assert log.names == [ORDERING]


async def test_an_order_that_was_refused_is_repeated() -> None:
    """A rate limit is a definite answer: there is no job."""
    log, adapter = Log(), Videos(orders=[RefusedError("busy", "rate_limited", retry_after_s=0)] * 2 + ["job-3"])
    result = await run(adapter, log)
    assert isinstance(result, VideoResult)
    assert result.job_id == "job-3"
    assert len(adapter.ordered) == ATTEMPTS_MAX == 3


@pytest.mark.parametrize(
    ("error", "orders"),
    [
        (RefusedError("busy", "rate_limited", retry_after_s=0), ATTEMPTS_MAX),
        (RefusedError("busy", "rate_limited", retry_after_s=RETRY_AFTER_S_MAX + 1), 1),
        (RefusedError("no credit", "billing"), 1),
        (ProviderError("never", "rate_limited"), 1),
        (InvalidRequest("no"), 1),
    ],
)
async def test_a_refusal_ends_the_run(error: Exception, orders: int) -> None:
    """A provider that goes on refusing, or for too long, or for good, is told to the person as it is."""
    log, adapter = Log(), Videos(orders=[error])
    with pytest.raises(type(error)):
        await run(adapter, log)
    assert len(adapter.ordered) == orders


@pytest.mark.parametrize("job_id", ["", "x" * (JOB_ID_CHARS_MAX + 1), 7])
async def test_a_job_has_an_id(job_id: Any) -> None:
    """An adapter whose job cannot be followed is told so, before an odd id is written."""
    log, adapter = Log(), Videos(orders=[job_id])
    with pytest.raises(ProviderError) as raised:
        await run(adapter, log)
    assert raised.value.code == "invalid_result"
    assert log.names == [ORDERING]


async def test_the_longest_id() -> None:
    """An id at its limit is taken."""
    log, adapter = Log(), Videos(orders=["x" * JOB_ID_CHARS_MAX])
    assert isinstance(await run(adapter, log), VideoResult)


async def test_failing_polls_do_not_end_the_job() -> None:
    """A provider that is away for a while is asked again, and only one job exists."""
    failing = [TransientError("away"), RefusedError("busy", retry_after_s=9), ConnectionResetError(), TimeoutError()]
    log, adapter = Log(), Videos(polls=["processing", *failing, "completed"])
    assert isinstance(await run(adapter, log), VideoResult)
    assert len(adapter.ordered) == 1
    assert adapter.polled == ["job-1"] * 6
    assert log.names == [ORDERING, JOB_CREATED, JOB_STATUS, JOB_STATUS]


async def test_a_definite_answer_to_a_poll_ends_the_run() -> None:
    """A job that the provider does not know will not appear."""
    for error in (ProviderError("There is no such job.", "unknown_job"), Unauthorized("There is no key.")):
        adapter = Videos(polls=[error])
        with pytest.raises(type(error)):
            await run(adapter, Log())
        assert len(adapter.polled) == 1


@pytest.mark.parametrize(("error", "message"), [("It is not allowed.",) * 2, (None, "Video generation failed")])
async def test_a_job_that_fails(error: str | None, message: str) -> None:
    """The last state says that the job failed, and the run ends with the provider's reason."""
    log, adapter = Log(), Videos(polls=[VideoStatus("job-1", "failed", 30, error)])
    with pytest.raises(ProviderError) as raised:
        await run(adapter, log)
    assert (raised.value.message, raised.value.code) == (message, "video_failed")
    assert log.chunks[-1]["value"]["status"] == "failed"


async def test_a_job_without_end_times_out() -> None:
    """At `max_duration` the run ends, with TanStack AI's words."""
    log, adapter = Log(), Videos(polls=["processing"])
    with pytest.raises(ProviderError) as raised:
        await run(adapter, log, Polling(interval_s=0, max_duration_s=0))
    assert (raised.value.message, raised.value.code) == ("Video generation timed out", "video_timed_out")
    assert adapter.polled == ["job-1"]


async def test_a_bad_input_orders_nothing() -> None:
    """It is refused before the first chunk."""
    adapter = Videos()
    with pytest.raises(InvalidRequest):
        run_generation(adapter, VideoInput(""), Outside("s", "r"))
    assert adapter.ordered == []


async def test_a_stop_ends_the_polling() -> None:
    """A run that is closed asks for nothing more. The job itself is cancelled where the adapter can."""
    adapter = Videos(polls=["processing"])
    items = run_generation(adapter, A_FOX, Outside("s", "r"), polling=AT_ONCE)
    async for item in items:
        if isinstance(item, dict) and item["name"] == JOB_STATUS:
            break
    await items.aclose()
    assert len(adapter.polled) == 1
    assert not await cancel(adapter, "job-1")


@asynccontextmanager
async def serving_file(data: bytes, status: int = 200) -> AsyncIterator[str]:
    """A provider's file server."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        head = f"HTTP/1.1 {status} X\r\nContent-Type: video/mp4\r\nContent-Length: {len(data)}\r\nConnection: close\r\n\r\n"
        writer.write(head.encode() + data)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}/clip.mp4"


async def test_a_file_that_is_fetched_has_a_limit() -> None:
    """At the limit it is kept, above it its address stays. A file server that fails is asked again later."""
    async with serving_file(b"abc") as url:
        assert await fetch(url, "video/webm", 3) == Media(b"abc", "video/mp4")
        assert await fetch(url, "video/webm", 2) is None
    async with serving_file(b"", 503) as url:
        with pytest.raises(TransientError):
            await fetch(url, "video/webm")


async def test_a_picture_at_an_address_is_fetched() -> None:
    """A run keeps the picture's file, because the provider's address expires."""

    class Linked:
        model = "linked"

        def __init__(self, url: str) -> None:
            self.url = url

        async def generate(self, request: ImageInput, /) -> ImageResult:
            return ImageResult("img-1", self.model, (GeneratedImage(url=self.url),))

    async with serving_file(b"abc") as url:
        result = await Log().write(run_generation(Linked(url), ImageInput("a fox"), Outside("s", "r")))
        assert result is not None
        assert [file.media.data for file in result.files()] == [b"abc"]
        assert result.as_json({"images[0]": "/kept"})["images"] == [{"url": "/kept"}]
        plain = await generate_image(adapter=Linked(url), prompt="a fox")
        assert plain.as_json()["images"] == [{"url": url}]


async def test_a_completed_job_without_a_video() -> None:
    """A provider that has nothing to give is told to the person."""

    class Empty(Videos):
        content = None  # type: ignore[assignment]

    with pytest.raises(ProviderError) as raised:
        await run(Empty(), Log())
    assert raised.value.code == "no_result"


async def test_an_adapter_that_returns_something_else() -> None:
    """An adapter whose states are none is told so, and its job is not polled forever."""

    class Odd(Videos):
        async def status(self, job_id: str, /) -> Any:
            return "completed"

    with pytest.raises(ProviderError) as raised:
        await run(Odd(), Log())
    assert raised.value.code == "invalid_result"


async def test_a_job_is_cancelled_where_that_is_possible() -> None:
    """An adapter may have `cancel`."""

    class Cancels(Videos):
        cancelled = ""

        async def cancel(self, job_id: str, /) -> None:
            self.cancelled = job_id

    adapter = Cancels()
    assert await cancel(adapter, "job-1")
    assert adapter.cancelled == "job-1"


async def test_a_video_at_an_address_is_fetched_before_it_expires() -> None:
    """An adapter without `content` names an address. A run fetches the file, and says nothing of an expiry when it is kept."""

    class Linked:
        model = "linked"

        def __init__(self, url: str) -> None:
            self.url = url

        def create(self, request: VideoInput, /) -> VideoJob:
            return VideoJob("job-1", self.model)

        def status(self, job_id: str, /) -> VideoStatus:
            return VideoStatus(job_id, "completed", url=self.url, expires_at=datetime(2030, 1, 1, tzinfo=UTC))

    async with serving_file(b"abc") as url:
        log = Log()
        result = await log.write(run_generation(Linked(url), A_FOX, log.context, polling=AT_ONCE))
    assert isinstance(result, VideoResult)
    assert result.media == Media(b"abc", "video/mp4")
    assert result.as_json()["expiresAt"] == "2030-01-01T00:00:00.000Z"
    assert "expiresAt" not in result.as_json({"video": "/kept"})
