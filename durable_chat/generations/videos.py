"""
Order a video once and follow its job to the end.

A provider charges for an order even if its answer is lost. The log therefore says first that an order is about to be
made, and then which job it is. After a crash, the log decides: a job with an id is polled again, an order without one
is never made a second time.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from itertools import count
from typing import Any

from durable_chat.errors import DurableChatError
from durable_chat.generations.adapters import RefusedError, TransientError, VideoAdapter
from durable_chat.generations.answers import answer_of
from durable_chat.generations.events import JOB_CREATED, JOB_STATUS, ORDERING, custom
from durable_chat.generations.fetching import fetch as download
from durable_chat.generations.inputs import VideoInput
from durable_chat.generations.media import Media
from durable_chat.generations.refusals import wait_out
from durable_chat.generations.results import Result, VideoJob, VideoResult, VideoStatus
from durable_chat.models.base import ProviderError
from durable_chat.transcripts.chunks import Chunk

log = logging.getLogger(__name__)

POLLING_INTERVAL_S_DEFAULT = 2.0
"""Time before each poll, as in TanStack AI."""

MAX_DURATION_S_DEFAULT = 600.0
"""Time after which a job is given up, as in TanStack AI. A restart begins it anew."""

BACKOFF_S_MAX = 30.0
"""Longest wait between polls that fail."""

VIDEO_TYPE_DEFAULT = "video/mp4"
"""The type of a video whose server names none."""

JOB_ID_CHARS_MAX = 1024
"""Longest job id; real ones are a tenth as long. It is in the log and in addresses."""

ORDER_UNKNOWN = (
    "It is not known whether the provider accepted the order. It was not ordered again, because that could cost twice.",
    "order_unknown",
)

KEY_MISSING = (
    "The video was ordered with a user's own key, which is not stored, so its job cannot be followed after a restart.",
    "key_missing",
)

Saved = Callable[[], Awaitable[None]]
Item = Chunk | Result


@dataclass(frozen=True, slots=True)
class Polling:
    """
    How a job is followed. With `fetch`, a video at a provider's address is downloaded, before the address expires.
    """

    interval_s: float = POLLING_INTERVAL_S_DEFAULT
    max_duration_s: float = MAX_DURATION_S_DEFAULT
    fetch: bool = True


async def order_video(
    adapter: VideoAdapter, request: VideoInput, saved: Saved, polling: Polling, *, own_key: bool = False
) -> AsyncGenerator[Item, None]:
    """
    Order a video and follow its job. Nothing is ordered before the chunk that says so is durable. `own_key` says that
    the order is made with a user's key, which is not stored.
    """
    prepare = getattr(adapter, "prepare", None)
    if prepare is not None:
        await prepare()
    yield custom(ORDERING, {"model": adapter.model, "ownKey": own_key})
    await saved()
    job = await order(adapter, request)
    yield custom(JOB_CREATED, {"jobId": job.job_id})
    await saved()
    async with aclosing(_follow(adapter, job.job_id, polling, polling.interval_s)) as items:
        async for item in items:
            yield item


async def resume_video(
    adapter: VideoAdapter,
    request: VideoInput,
    saved: Saved,
    said: Sequence[Chunk],
    polling: Polling,
    *,
    own_key: bool = False,
) -> AsyncGenerator[Item, None]:
    """Go on after a crash, as the chunks in the log say. Raises ProviderError `order_unknown` and `key_missing`."""
    ordering, job_id = _said(said, ORDERING), job_in(said)
    if job_id is not None:
        if ordering is not None and ordering.get("ownKey") and not own_key:
            raise ProviderError(*KEY_MISSING)
        items = _follow(adapter, job_id, polling, 0)
    elif ordering is not None:
        raise ProviderError(*ORDER_UNKNOWN)
    else:
        items = order_video(adapter, request, saved, polling, own_key=own_key)
    async with aclosing(items):
        async for item in items:
            yield item


def job_in(said: Sequence[Chunk]) -> str | None:
    """Return the id of the job that a run's chunks name."""
    job_id = (_said(said, JOB_CREATED) or {}).get("jobId")
    return job_id if isinstance(job_id, str) else None


def _said(said: Sequence[Chunk], name: str) -> dict[str, Any] | None:
    """Return the value of the last CUSTOM chunk of this name."""
    for chunk in reversed(said):
        if chunk.get("type") == "CUSTOM" and chunk.get("name") == name:
            value = chunk.get("value")
            return value if isinstance(value, dict) else {}
    return None


async def order(adapter: VideoAdapter, request: VideoInput) -> VideoJob:
    """
    Order a video. Only a refusal is tried again: after any other failure, the order may have been made. Raises
    ProviderError.
    """
    for attempt in count(1):
        try:
            job = await answer_of(adapter.create, request)
        except RefusedError as error:
            await wait_out(error, attempt)
        except TransientError as error:
            raise ProviderError(*ORDER_UNKNOWN) from error
        except (ProviderError, DurableChatError):
            raise
        except Exception as error:
            log.warning("The order of a video failed: %s", type(error).__name__, exc_info=error)
            raise ProviderError(*ORDER_UNKNOWN) from error
        else:
            return _checked(job)
    raise AssertionError("each attempt returns, waits or raises")


def _checked(job: Any) -> VideoJob:
    if isinstance(job, VideoJob) and isinstance(job.job_id, str) and 0 < len(job.job_id) <= JOB_ID_CHARS_MAX:
        return job
    raise ProviderError("The adapter did not return a VideoJob with an id.", "invalid_result")


async def status_of(adapter: VideoAdapter, job_id: str) -> VideoStatus:
    """Ask once for the state of a job. Raises what the adapter raises."""
    status = await answer_of(adapter.status, job_id)
    if not isinstance(status, VideoStatus):
        raise ProviderError("The adapter did not return a VideoStatus.", "invalid_result")
    return status


async def result_of(adapter: VideoAdapter, status: VideoStatus, *, fetch: bool) -> VideoResult:
    """Return the video of a completed job. Raises ProviderError and what the adapter raises."""
    content = getattr(adapter, "content", None)
    media: Media | None = None
    if content is not None and (fetch or status.url is None):
        media = await answer_of(content, status.job_id)
    elif fetch and status.url is not None:
        media = await download(status.url, VIDEO_TYPE_DEFAULT)
    if media is None and status.url is None:
        raise ProviderError("The job is completed, but the provider has no video.", "no_result")
    return VideoResult(status.job_id, adapter.model, media, status.url, status.expires_at, status.usage)


async def cancel(adapter: VideoAdapter, job_id: str) -> bool:
    """Cancel a job at its provider. Return False if the adapter cannot."""
    stop = getattr(adapter, "cancel", None)
    if stop is not None:
        await answer_of(stop, job_id)
    return stop is not None


async def _follow(
    adapter: VideoAdapter, job_id: str, polling: Polling, first_wait_s: float
) -> AsyncGenerator[Item, None]:
    """Poll a job and yield its states and its video. Failures of polls are waited out."""
    deadline = time.monotonic() + polling.max_duration_s
    wait_s, failures = first_wait_s, 0
    while True:
        await asyncio.sleep(wait_s)
        try:
            status = await status_of(adapter, job_id)
            if status.status == "completed":
                result = await result_of(adapter, status, fetch=polling.fetch)
        except Exception as error:
            if not _may_pass(error):
                raise
            log.warning("A poll of a video job failed and is tried again: %s", type(error).__name__)
            failures += 1
            wait_s = min(max(polling.interval_s, 0.1) * 2**failures, BACKOFF_S_MAX)
        else:
            yield custom(JOB_STATUS, status.event())
            if status.status == "completed":
                yield result
                return
            if status.status == "failed":
                raise ProviderError(status.error or "Video generation failed", "video_failed")
            wait_s, failures = polling.interval_s, 0
        if time.monotonic() >= deadline:
            raise ProviderError("Video generation timed out", "video_timed_out")


def _may_pass(error: Exception) -> bool:
    """Whether a poll that failed may succeed later. Only a provider's definite answer ends a job."""
    if isinstance(error, RefusedError):
        return error.retry_after_s is not None
    return isinstance(error, TransientError) or not isinstance(error, ProviderError | DurableChatError)
