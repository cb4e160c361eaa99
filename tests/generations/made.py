"""Files that the demo makes, for tests that are not asynchronous: each is made in a thread with its own loop."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from durable_chat import DemoImages, DemoSpeech, DemoVideo, Media, generate_image, generate_speech, generate_video

T = TypeVar("T")


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run it in a thread, because Playwright holds the event loop of the tests' own."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()


def image(prompt: str, size: str | None = None, count: int = 1) -> list[bytes]:
    async def make() -> list[bytes]:
        made = await generate_image(adapter=DemoImages(0), prompt=prompt, size=size, number_of_images=count)
        return [file.media.data for file in made.files()]

    return run(make())


def spoken(text: str, voice: str = "alloy", speed: float = 1.0, kind: str | None = None) -> Media:
    async def make() -> Media:
        made = await generate_speech(adapter=DemoSpeech(0), text=text, voice=voice, speed=speed, format=kind)
        return made.audio

    return run(make())


def clip(seconds: int, size: str, prompt: str = "a fox") -> Media:
    async def make() -> Media:
        adapter = DemoVideo(job_s=0)
        job = await generate_video(adapter=adapter, prompt=prompt, size=size, duration=seconds)
        return await adapter.content(job.job_id)

    return run(make())
