"""
The demo's videos: WebM files of a drawn animation. The id of a job says everything about it, so that any process can
follow it, and a restart loses nothing.

The pictures of the animation are in loop.ivf (VP8 in IVF). They were recorded from a canvas with Chromium's
MediaRecorder.
"""

from __future__ import annotations

import base64
import binascii
import json
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from typing import Any, ClassVar

from durable_chat.generations.demo.images import should_fail
from durable_chat.generations.demo.webm import Frame, webm_of
from durable_chat.generations.inputs import VideoInput
from durable_chat.generations.limits import VideoLimits
from durable_chat.generations.media import Media
from durable_chat.generations.results import VideoJob, VideoStatus
from durable_chat.models.base import ProviderError

SIZES = ("1280x720", "720x1280", "1792x1024", "1024x1792")
SIZE_DEFAULT = "1280x720"
DURATIONS_S = (4, 8, 12)
DURATION_S_DEFAULT = 8
JOB_S_DEFAULT = 6.0
FRAMES_PER_S = 12
KEPT_S = 3600
"""How long the address of a video is valid, as at OpenAI: an hour."""

TITLE_CHARS_MAX = 60
"""Characters of the prompt in a job's id, and so in the title of the video."""

PENDING_PERCENT = 10
_PREFIX = "demo_"


@dataclass(frozen=True, slots=True)
class DemoVideo:
    """
    Makes videos of an animation. A job takes `job_s` seconds. A prompt with the word `fail` makes it fail halfway.
    `now_s` is the clock.
    """

    job_s: float = JOB_S_DEFAULT
    now_s: Callable[[], float] = time.time
    model: ClassVar[str] = "demo"
    provider: ClassVar[str] = "demo"
    limits: ClassVar[VideoLimits] = VideoLimits(sizes=SIZES, durations_s=DURATIONS_S, prompt_chars_max=4000)

    async def create(self, request: VideoInput, /) -> VideoJob:
        job = {
            "at": self.now_s(),
            "takes": self.job_s,
            "seconds": request.duration_s or DURATION_S_DEFAULT,
            "size": request.size or SIZE_DEFAULT,
            "title": request.prompt[:TITLE_CHARS_MAX],
            "fails": should_fail(request.prompt),
            "n": uuid.uuid4().hex[:8],
        }
        data = json.dumps(job, separators=(",", ":")).encode()
        return VideoJob(_PREFIX + base64.urlsafe_b64encode(data).decode().rstrip("="), self.model)

    async def status(self, job_id: str, /) -> VideoStatus:
        job = _job(job_id)
        done = (self.now_s() - job["at"]) / job["takes"] if job["takes"] > 0 else 1.0
        percent = int(100 * min(1.0, max(0.0, done)))
        if job["fails"] and percent >= 50:
            error = "The demo failed halfway, because the prompt said so."
            return VideoStatus(job_id, "failed", 50, error)
        if percent < PENDING_PERCENT:
            return VideoStatus(job_id, "pending", percent)
        if percent < 100:
            return VideoStatus(job_id, "processing", percent)
        expires = datetime.fromtimestamp(job["at"] + job["takes"] + KEPT_S, UTC)
        return VideoStatus(job_id, "completed", 100, expires_at=expires)

    async def content(self, job_id: str, /) -> Media:
        """Return the video of a completed job. Raises ProviderError if it is not completed, or has expired."""
        job = _job(job_id)
        status = await self.status(job_id)
        if status.status != "completed":
            raise ProviderError("The video is not ready.", "not_ready")
        if status.expires_at is not None and self.now_s() > status.expires_at.timestamp():
            raise ProviderError("The video has expired at its provider.", "expired")
        width, height = map(int, job["size"].split("x"))
        loops = job["seconds"] * FRAMES_PER_S // len(_loop())
        return Media(webm_of(_loop() * loops, FRAMES_PER_S, (width, height), job["title"]), "video/webm")


def _job(job_id: str) -> dict[str, Any]:
    """Return what a job's id says. Raises ProviderError for the id of another provider."""
    try:
        if not job_id.startswith(_PREFIX):
            raise ValueError
        data = job_id.removeprefix(_PREFIX).encode()
        job = json.loads(base64.b64decode(data + b"=" * (-len(data) % 4), b"-_", validate=True))
        if not isinstance(job, dict) or job["size"] not in SIZES or job["seconds"] not in DURATIONS_S:
            raise ValueError
        return job | {"at": float(job["at"]), "takes": float(job["takes"]), "title": str(job["title"])}
    except (ValueError, KeyError, TypeError, binascii.Error):
        raise ProviderError("There is no such job.", "unknown_job") from None


@cache
def _loop() -> list[Frame]:
    """Read the pictures of the animation: a header of 32 bytes, then for each one its length, its time and its data."""
    data = files("durable_chat.generations.demo").joinpath("loop.ivf").read_bytes()
    frames, at = [], 32
    while at < len(data):
        length = int.from_bytes(data[at : at + 4], "little")
        picture = data[at + 12 : at + 12 + length]
        frames.append(Frame(picture, not picture[0] & 1))
        at += 12 + length
    return frames
