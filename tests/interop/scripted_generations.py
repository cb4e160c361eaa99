"""
An application whose generations a test steers, by the words of the input: `wait` reports progress and then waits for
POST /go, and `fail` reports progress and fails. DURABLE_CHAT_STORE and the other settings are those of the environment.

Start it with uvicorn as `tests.interop.scripted_generations:app`. With DIE_AT it kills itself, see tests/sessions/dying.py.
"""

from __future__ import annotations

import asyncio
import base64
import importlib
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route

from durable_chat import (
    DurableChat,
    GeneratedImage,
    ImageResult,
    Media,
    Progress,
    ProviderError,
    SpeechResult,
    SummaryResult,
    TranscriptionResult,
    Usage,
    VideoJob,
    VideoStatus,
)

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
WAV = base64.b64decode("UklGRiYAAABXQVZFZm10IBAAAAABAAEAQB8AAIA+AAACABAAZGF0YQIAAAAAAA==")

if "DIE_AT" in os.environ:
    importlib.import_module("tests.sessions.dying")

GO = asyncio.Event()
JOBS = Path(os.environ.get("JOBS_FILE", "jobs.json"))
"""The provider's books: the jobs that were ordered. They outlive this process, as a provider's do."""


async def act(words: str) -> AsyncIterator[Progress]:
    """Report progress, and then do what the words say."""
    yield Progress(10, "begun")
    if "wait" in words:
        await GO.wait()
    if "fail" in words:
        raise ProviderError("The provider is out of paint.", "no_paint")
    yield Progress(90)


class Images:
    model = "paint-1"

    async def generate(self, given: Any, /) -> AsyncIterator[Progress | ImageResult]:
        async for progress in act(given.prompt):
            yield progress
        yield ImageResult("image-1", self.model, (GeneratedImage(Media(PNG, "image/png")),))


class Speech:
    model = "voice-1"

    async def generate(self, given: Any, /) -> AsyncIterator[Progress | SpeechResult]:
        async for progress in act(given.text):
            yield progress
        yield SpeechResult("speech-1", self.model, Media(WAV, "audio/wav"), "wav", 0.1)


class Transcripts:
    model = "ear-1"

    async def generate(self, given: Any, /) -> AsyncIterator[Progress | TranscriptionResult]:
        async for progress in act(given.prompt or ""):
            yield progress
        yield TranscriptionResult("transcript-1", self.model, f"heard {len(given.audio.data)} bytes")


class Summaries:
    model = "short-1"

    async def generate(self, given: Any, /) -> AsyncIterator[Progress | str | SummaryResult]:
        async for progress in act(given.text):
            yield progress
        yield "in short"
        yield SummaryResult("summary-1", self.model, "in short", Usage(3, 2, 5))


def ordered() -> dict[str, str]:
    """Return the words of each job."""
    found: dict[str, str] = json.loads(JOBS.read_text()) if JOBS.exists() else {}
    return found


class Videos:
    """A job is processing at its first poll, and completed later, unless it waits or fails."""

    model = "film-1"

    def __init__(self) -> None:
        self._polls: dict[str, int] = {}

    def create(self, given: Any, /) -> VideoJob:
        jobs = ordered()
        job_id = f"job-{len(jobs) + 1}"
        JOBS.write_text(json.dumps(jobs | {job_id: given.prompt}))
        return VideoJob(job_id, self.model)

    def status(self, job_id: str, /) -> VideoStatus:
        polls = self._polls[job_id] = self._polls.get(job_id, 0) + 1
        words = ordered()[job_id]
        if polls == 1 or ("wait" in words and not GO.is_set()):
            return VideoStatus(job_id, "processing", 50.0)
        if "fail" in words:
            return VideoStatus(job_id, "failed", error="The provider is out of film.")
        return VideoStatus(job_id, "completed", 100.0)

    def content(self, _job_id: str, /) -> Media:
        return Media(b"a film", "video/mp4")


chat = DurableChat(
    generations={
        "image": Images(),
        "speech": Speech(),
        "transcription": Transcripts(),
        "summary": Summaries(),
        "video": Videos(),
    },
)


async def go(_request: Request) -> Response:
    GO.set()
    return Response()


async def hold(_request: Request) -> Response:
    GO.clear()
    return Response()


routes = [Route("/go", go, methods=["POST"]), Route("/hold", hold, methods=["POST"]), Mount("/", chat.app)]
app = Starlette(routes=routes, lifespan=chat.lifespan)
