"""
The interfaces of generation adapters: one small class for each activity, and the errors that they raise.

An adapter has a `model` (a name), and one method. It may also have `provider` (a name), `limits` (what its model
takes), `with_key(key)` (the same adapter with a user's own key), and `aclose()`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Iterator
from typing import Any, Literal, Protocol, TypeAlias, TypeVar

from durable_chat.errors import InvalidRequest
from durable_chat.generations.inputs import (
    ImageInput,
    Input,
    SpeechInput,
    SummaryInput,
    TranscriptionInput,
    VideoInput,
)
from durable_chat.generations.limits import (
    ImageLimits,
    SpeechLimits,
    SummaryLimits,
    TranscriptionLimits,
    VideoLimits,
)
from durable_chat.generations.results import (
    ImageResult,
    Progress,
    SpeechResult,
    SummaryResult,
    TranscriptionResult,
    VideoJob,
    VideoStatus,
)
from durable_chat.models.base import ProviderError
from durable_chat.models.providers.failures import TransientError as TransientError

Activity = Literal["image", "speech", "transcription", "summary", "video"]

T = TypeVar("T")
Answer: TypeAlias = T | Awaitable[T] | AsyncIterator[Progress | str | T] | Iterator[Progress | str | T]
"""
What an adapter's method returns: the result, or an iterator that yields Progress, text (str, for summaries) and, last,
the result. A plain function runs in a thread.
"""


class RefusedError(ProviderError):
    """
    The provider refused the request and did nothing, for example because of a rate limit. It may be sent again after
    `retry_after_s`, or not at all if that is None.
    """

    def __init__(self, message: str, code: str = "provider_error", *, retry_after_s: float | None = None) -> None:
        super().__init__(message, code)
        self.retry_after_s = retry_after_s


class ImageAdapter(Protocol):
    """Draws images."""

    @property
    def model(self) -> str: ...

    def generate(self, request: ImageInput, /) -> Answer[ImageResult]: ...


class SpeechAdapter(Protocol):
    """Speaks a text."""

    @property
    def model(self) -> str: ...

    def generate(self, request: SpeechInput, /) -> Answer[SpeechResult]: ...


class TranscriptionAdapter(Protocol):
    """Writes down what audio says."""

    @property
    def model(self) -> str: ...

    def generate(self, request: TranscriptionInput, /) -> Answer[TranscriptionResult]: ...


class SummaryAdapter(Protocol):
    """Summarizes a text. The strings that it yields are pieces of the summary as it is written."""

    @property
    def model(self) -> str: ...

    def generate(self, request: SummaryInput, /) -> Answer[SummaryResult]: ...


class VideoAdapter(Protocol):
    """
    Orders videos and follows their jobs. It may also have `content(job_id)`, which returns the Media of a completed
    job, `cancel(job_id)`, and an async `prepare()`, which does what takes time before an order: a crash during an order leaves
    it unknown. A job is followed by its id alone, so that any process can do it.

    `create` raises RefusedError if the provider certainly made no job; only then is it called again. `status` raises
    TransientError for a failure that may pass.
    """

    @property
    def model(self) -> str: ...

    def create(self, request: VideoInput, /) -> VideoJob | Awaitable[VideoJob]: ...

    def status(self, job_id: str, /) -> VideoStatus | Awaitable[VideoStatus]: ...


Adapter = ImageAdapter | SpeechAdapter | TranscriptionAdapter | SummaryAdapter | VideoAdapter

INPUTS: dict[Activity, type[Input]] = {
    "image": ImageInput,
    "speech": SpeechInput,
    "transcription": TranscriptionInput,
    "summary": SummaryInput,
    "video": VideoInput,
}
_ACTIVITIES: dict[type[Input], Activity] = {kind: activity for activity, kind in INPUTS.items()}
_LIMITS: dict[Activity, Any] = {
    "image": ImageLimits(),
    "speech": SpeechLimits(),
    "transcription": TranscriptionLimits(),
    "summary": SummaryLimits(),
    "video": VideoLimits(),
}


def parse_input(activity: Activity, body: Any) -> Input:
    """Read the input of an activity from a client's body. Raises InvalidRequest and TooLarge."""
    if not isinstance(body, dict):
        raise InvalidRequest("The input must be a JSON object.", code="invalid_input")
    return INPUTS[activity].parse(body)


def activity_of(request: Input) -> Activity:
    return _ACTIVITIES[type(request)]


def check_input(adapter: Adapter, request: Input) -> None:
    """Check an input against what the adapter's model takes. Raises InvalidRequest and TooLarge."""
    limits: Any = getattr(adapter, "limits", None) or _LIMITS[activity_of(request)]
    request.check(limits)


def check_adapter_key(adapter: Any, api_key: str | None) -> None:
    """Raise Unauthorized when the adapter needs a key and there is none. Call this before anything is written."""
    check = getattr(adapter, "check", None)
    if check is not None:
        check(api_key)


def provider_of(adapter: Adapter) -> str:
    """Return the name of the adapter's provider, for the origin of a file."""
    return str(getattr(adapter, "provider", "custom"))


def with_key(adapter: Any, key: str | None) -> Any:
    """Return the adapter for a user's own key, if there is one and the adapter takes keys."""
    take = getattr(adapter, "with_key", None)
    return adapter if key is None or take is None else take(key)
