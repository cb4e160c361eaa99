"""
OpenAI's videos: jobs of Sora, or of a server with the same routes.

The routes are called by their addresses. OpenAI has announced the end of its own Sora API for 2026-09-24, and its
package warns at each call of the methods for it; other servers keep the routes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from durable_chat.generations.fetching import VIDEO_BYTES_MAX
from durable_chat.generations.inputs import VideoInput
from durable_chat.generations.limits import VideoLimits
from durable_chat.generations.media import Media
from durable_chat.generations.openai.adapters import OpenAIAdapter, T
from durable_chat.generations.results import Status, VideoJob, VideoStatus
from durable_chat.models.base import ProviderError
from durable_chat.transcripts.chunks import safe_message

if TYPE_CHECKING:
    from openai import AsyncOpenAI

MODEL_DEFAULT = "sora-2"
SIZE_DEFAULT = "1280x720"
DURATION_S_DEFAULT = 8
"""The defaults of TanStack AI."""

_LIMITS = VideoLimits(
    sizes=("1280x720", "720x1280", "1792x1024", "1024x1792"), durations_s=(4, 8, 12), references_max=1
)
# OpenAI's names, and those of compatible servers.
_STATES: dict[str, Status] = {
    "pending": "pending",
    "queued": "pending",
    "in_progress": "processing",
    "processing": "processing",
    "completed": "completed",
    "failed": "failed",
}
PATH = "/videos"
_NO_JOB = ("There is no such job at the AI provider.", "unknown_job")
_UNKNOWN = "model_not_found"
"""The code of a 404. A job's address names no model."""


class OpenAIVideo(OpenAIAdapter):
    """Videos of OpenAI: `sora-2` or `sora-2-pro`. They have no public address, so they are downloaded with the key."""

    def __init__(self, model: str = MODEL_DEFAULT, *, key: str | None = None, base_url: str | None = None) -> None:
        super().__init__(model, key=key, base_url=base_url)
        self.limits = _LIMITS if model.startswith("sora") else VideoLimits(references_max=1)

    async def create(self, request: VideoInput, /) -> VideoJob:
        """Order a video. Raises RefusedError if there is certainly no job, and TransientError if nobody knows."""
        asked: dict[str, Any] = {
            "model": self.model,
            "prompt": request.prompt,
            "size": request.size or SIZE_DEFAULT,
            "seconds": str(request.duration_s or DURATION_S_DEFAULT),
        }
        files = [
            ("input_reference", (f"picture.{media.extension}", media.data, media.media_type))
            for media in request.references
        ]
        form: Any = {"headers": {"Content-Type": "multipart/form-data"}}
        job_id = await self._ask_job(
            lambda client: client.post(PATH, cast_to=object, body=asked, files=files, options=form),
            lambda video: str(video["id"]),
        )
        return VideoJob(job_id, self.model)

    async def status(self, job_id: str, /) -> VideoStatus:
        """Ask for the state of a job. Raises ProviderError `unknown_job` if there is none."""

        def read(video: Any) -> VideoStatus:
            expires_at, error = video.get("expires_at"), video.get("error")
            expires = None if expires_at is None else datetime.fromtimestamp(expires_at, UTC)
            reason = safe_message(error.get("message"), self.secrets) if error is not None else None
            return VideoStatus(job_id, _STATES[video["status"]], video.get("progress"), reason, None, expires)

        return await self._ask_job(lambda client: client.get(_path(job_id), cast_to=object), read)

    async def content(self, job_id: str, /) -> Media:
        """Download the video of a completed job. Raises ProviderError."""
        from openai import HttpxBinaryResponseContent as Binary

        path, headers = f"{_path(job_id)}/content", {"Accept": "application/binary"}
        media = await self._ask_job(
            lambda client: client.get(path, cast_to=Binary, options={"headers": headers}),
            lambda answer: Media(answer.content, answer.response.headers.get("content-type", "video/mp4")),
        )
        if len(media.data) > VIDEO_BYTES_MAX:
            raise ProviderError(f"The video has more than {VIDEO_BYTES_MAX} bytes.", "video_too_large")
        return media

    async def cancel(self, job_id: str, /) -> None:
        """Delete a job and its video."""
        await self._ask_job(lambda client: client.delete(_path(job_id), cast_to=object), lambda _: None)

    async def _ask_job(self, request: Callable[[AsyncOpenAI], Awaitable[Any]], read: Callable[[Any], T]) -> T:
        """Make one request about a job. A 404 says that there is none."""
        try:
            return await self.ask(request, read)
        except ProviderError as error:
            if error.code == _UNKNOWN:
                raise ProviderError(*_NO_JOB) from None
            raise


def _path(job_id: str) -> str:
    return f"{PATH}/{quote(job_id, safe='')}"
