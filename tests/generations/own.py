"""Adapters of a user's own, as small as the documentation says: they do what a list tells them, and remember it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from durable_chat.generations.inputs import ImageInput, SummaryInput, VideoInput
from durable_chat.generations.media import Media
from durable_chat.generations.results import GeneratedImage, ImageResult, SummaryResult, VideoJob, VideoStatus

PNG = Media(b"\x89PNG\r\n\x1a\n", "image/png")
CLIP = Media(b"a video", "video/mp4")


class Images:
    """Draws the same picture each time, at once."""

    model = "own-1"

    async def generate(self, request: ImageInput, /) -> ImageResult:
        return ImageResult("img-1", self.model, (GeneratedImage(PNG, revised_prompt=request.prompt.upper()),))


class PlainSummaries:
    """A plain function: it blocks, so it runs in a thread."""

    model = "own-1"

    def generate(self, request: SummaryInput, /) -> SummaryResult:
        return SummaryResult("sum-1", self.model, request.text[:5])


class Videos:
    """
    Orders and polls as told. `orders` and `polls` are what to do each time: an exception to raise, or what to return; the
    last one holds for all further times.
    """

    model = "own-video"

    def __init__(self, orders: Sequence[Any] = (), polls: Sequence[Any] = ()) -> None:
        self.orders = list(orders) or ["job-1"]
        self.polls = list(polls) or ["completed"]
        self.ordered: list[VideoInput] = []
        self.polled: list[str] = []

    async def create(self, request: VideoInput, /) -> VideoJob:
        self.ordered.append(request)
        return VideoJob(_next(self.orders), self.model)

    async def status(self, job_id: str, /) -> VideoStatus:
        self.polled.append(job_id)
        told = _next(self.polls)
        return told if isinstance(told, VideoStatus) else VideoStatus(job_id, told)

    async def content(self, job_id: str, /) -> Media:
        return CLIP


def _next(told: list[Any]) -> Any:
    value = told.pop(0) if len(told) > 1 else told[0]
    if isinstance(value, BaseException):
        raise value
    return value
