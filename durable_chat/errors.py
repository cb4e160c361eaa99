"""
Every error that durable-chat raises on purpose, and its HTTP status.

    DurableChatError
    ├── InvalidRequest 400          the request is invalid; nothing was written
    ├── Unauthorized 401            credentials are missing or wrong
    ├── Forbidden 403               the caller is not allowed to do this
    │   └── StaleEpoch 403          another producer has fenced this one
    ├── NotFound 404
    ├── Conflict 409                the stream's state does not allow the request
    │   ├── StreamClosed 409
    │   ├── RecordConflict 409      a record does not have the expected version
    │   └── SequenceGap 409         a producer's sequence number is not the next one
    ├── Gone 410                    the stream is soft-deleted: forks still read it
    │   └── OffsetGone 410          the offset belongs to an earlier stream at this path
    ├── TooLarge 413
    ├── UnsupportedMediaType 415
    ├── TooManyRequests 429
    ├── UpstreamFailed 502          the remote server's response violates the protocol
    ├── AnswerLost 502              an accepted answer could not be written completely
    └── Unavailable 503
        ├── Overloaded 503          too many writes wait for the disk; nothing was written
        ├── StoreFailed 503         a write did not reach the disk; writes are refused until the operator acts
        ├── StreamDamaged 503       stored bytes of this stream are missing or changed; other streams are intact
        ├── UpstreamAuth 503        the remote server refused our secret
        └── UpstreamDown 503        the remote server does not answer

`StartError` is for the command line: the server cannot start, and the message says why in one sentence.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from starlette.exceptions import HTTPException


class DurableChatError(HTTPException):
    """
    An error that knows its response: `status` (HTTP), `code` (a stable name for programs), the message (a sentence for
    people, safe to show) and extra response headers. `retry_safe` says whether the same request may be sent again.

    It is an HTTPException, so an application's route that raises one responds with its status.
    """

    status: ClassVar[int] = 500
    default_code: ClassVar[str] = "internal"
    retry_safe: ClassVar[bool] = False

    def __init__(self, message: str, *, code: str | None = None, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(self.status, message)
        self.message = message
        self.code = code or self.default_code
        self.headers: dict[str, str] = dict(headers or {})

    def __str__(self) -> str:
        return self.message


class InvalidRequest(DurableChatError):
    status = 400
    default_code = "bad_request"


class Unauthorized(DurableChatError):
    status = 401
    default_code = "unauthorized"


class Forbidden(DurableChatError):
    status = 403
    default_code = "forbidden"


class StaleEpoch(Forbidden):
    """The producer's epoch is older than the stream's (PROTOCOL.md 5.2.1): another producer has fenced it."""

    default_code = "stale_epoch"

    def __init__(self, current_epoch: int) -> None:
        super().__init__("This producer's epoch is stale.", headers={"Producer-Epoch": str(current_epoch)})
        self.current_epoch = current_epoch


class NotFound(DurableChatError):
    status = 404
    default_code = "not_found"


class Conflict(DurableChatError):
    status = 409
    default_code = "conflict"


class StreamClosed(Conflict):
    """An append to a closed stream (PROTOCOL.md 5.2). Carries the final offset."""

    default_code = "stream_closed"

    def __init__(self, next_offset: str) -> None:
        super().__init__("The stream is closed.", headers={"Stream-Closed": "true", "Stream-Next-Offset": next_offset})
        self.next_offset = next_offset


class RecordConflict(Conflict):
    """Another writer has changed the record in the meantime. Nothing of the refused write was applied."""

    default_code = "record_conflict"

    def __init__(self) -> None:
        super().__init__("Another writer changed the record in the meantime.")


class SequenceGap(Conflict):
    """A producer's sequence number leaves a gap (PROTOCOL.md 5.2.1)."""

    default_code = "sequence_gap"
    retry_safe = True

    def __init__(self, expected_seq: int, received_seq: int) -> None:
        headers = {"Producer-Expected-Seq": str(expected_seq), "Producer-Received-Seq": str(received_seq)}
        super().__init__(f"Expected sequence number {expected_seq}, received {received_seq}.", headers=headers)
        self.expected_seq = expected_seq
        self.received_seq = received_seq


class Gone(DurableChatError):
    status = 410
    default_code = "gone"


class OffsetGone(Gone):
    """The stream that issued the offset is gone. The stream that is now at its path never had that position."""

    default_code = "offset_gone"

    def __init__(self) -> None:
        super().__init__("The offset belongs to an earlier stream at this path. Read from the beginning: offset=-1.")


class TooLarge(DurableChatError):
    status = 413
    default_code = "too_large"


class UnsupportedMediaType(DurableChatError):
    status = 415
    default_code = "unsupported_media_type"


class TooManyRequests(DurableChatError):
    status = 429
    default_code = "too_many_requests"
    retry_safe = True

    def __init__(self, message: str, *, code: str | None = None, retry_after_s: int = 1) -> None:
        super().__init__(message, code=code, headers={"Retry-After": str(retry_after_s)})


class UpstreamFailed(DurableChatError):
    status = 502
    default_code = "upstream_failed"


class AnswerLost(DurableChatError):
    """The request was valid and accepted, but its answer is incomplete. The code says why."""

    status = 502
    default_code = "answer_lost"


class Unavailable(DurableChatError):
    """The server cannot serve the request now. The same request may be sent again after `retry_after_s` seconds."""

    status = 503
    default_code = "unavailable"
    retry_safe = True

    def __init__(self, message: str, *, code: str | None = None, retry_after_s: int = 1) -> None:
        super().__init__(message, code=code, headers={"Retry-After": str(retry_after_s)})


class Overloaded(Unavailable):
    """The queue of writes that wait for this process's disk is full. Raised before anything is decided."""

    default_code = "overloaded"


class StoreFailed(Unavailable):
    default_code = "store_failed"


class StreamDamaged(Unavailable):
    """Stored bytes of the stream are missing or changed. A retry does not help: the operator must restore a backup."""

    default_code = "stream_damaged"
    retry_safe = False

    def __init__(self, path: str) -> None:
        super().__init__(
            f"The stream {path} is damaged: some of its stored bytes are missing or fail their checksum. On the "
            "server, run `durable-chat doctor` to see what is damaged, and restore the store from a backup.",
            retry_after_s=30,
        )


class UpstreamAuth(Unavailable):
    default_code = "upstream_auth"


class UpstreamDown(Unavailable):
    default_code = "upstream_down"


class StartError(Exception):
    """The server cannot start; the message says what to do about it."""
