"""
Exchanges with a remote Durable Streams server: its address, our secret, the limits, and all failures.

Only this module turns httpx's exceptions and the server's statuses into our errors, with the two tables below.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from http.cookiejar import CookieJar, DefaultCookiePolicy
from urllib.parse import quote, urlencode, urlsplit

import httpx

from durable_chat.errors import (
    Conflict,
    DurableChatError,
    Gone,
    InvalidRequest,
    NotFound,
    SequenceGap,
    StaleEpoch,
    StartError,
    StreamClosed,
    TooLarge,
    UnsupportedMediaType,
    UpstreamAuth,
    UpstreamDown,
    UpstreamFailed,
)
from durable_chat.protocol.events import is_offset_like
from durable_chat.protocol.messages import BINARY
from durable_chat.store.base import Head

log = logging.getLogger(__name__)

CONNECT_MAX_S = 5.0
"""A server that takes longer to accept a connection counts as down."""

ANSWER_MAX_S = 10.0
"""From a request to the headers of its response, except for a long-poll. A write to a slow disk takes less."""

EXCHANGE_MAX_S = 30.0
"""The time for all attempts of an exchange. Users do not wait longer, and common proxies time out later."""

ASKED_PAUSE_MAX_S = 5
"""A longer `Retry-After` is not waited for here. It is passed on to the caller."""

BODY_MAX_S = 120.0
"""The time for one body of a catch-up read: BODY_BYTES_MAX at one MiB per second."""

SILENCE_MAX_S = 75.0
"""A live read that is silent for longer is cut. A server sends something, if only a control event, every 60 s."""

BODY_BYTES_MAX = 128 * 1024 * 1024
"""The maximum size of a body. A server may send a whole stream in one response, which is held in memory once."""

DRAINED_BYTES_MAX = 64 * 1024
"""Bytes of an unneeded body that are read and dropped, so that the connection can be reused."""

ATTEMPTS_MAX = 5
"""With the pauses below, about 1.5 s if the server is down. The user gets an error soon and can retry."""

RUN_ATTEMPTS_MAX = 10
"""For a writer in the middle of a run: about 10 s, so that the answer survives a restart of the remote server."""

BACKOFF_MIN_S = 0.1
BACKOFF_MAX_S = 2.0
"""Pauses between attempts double from the minimum to the maximum. Jitter keeps writers from retrying together."""

RETRY_AFTER_MAX_S = 60
"""The maximum `Retry-After` that is passed on, so that a wrong value of a day does not stop a chat for a day."""

EXCHANGES_MAX = 64
"""Connections for short exchanges. Only the writers of this process use them, not the readers."""

LIVE_READS_MAX = 1024
"""Connections for live reads. They have their own pool, so that many readers do not delay a write."""

RETRIED = frozenset({429, 500, 502, 503, 504})
"""Statuses that mean "retry later". A retry would not change any other status."""

# Raised before a byte of the request was sent, so the request was certainly not carried out.
_NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)

# Raised if the server has just closed an idle connection.
_STALE = (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError)

_FOREIGN: tuple[tuple[type[Exception], type[DurableChatError], str], ...] = (
    (httpx.LocalProtocolError, InvalidRequest, "The request cannot be passed on to the stream server."),
    (httpx.UnsupportedProtocol, UpstreamFailed, "The stream server's address cannot be used."),
    (httpx.TransportError, UpstreamDown, "The stream server does not respond."),
    (TimeoutError, UpstreamDown, "The stream server does not respond."),
    (httpx.HTTPError, UpstreamFailed, "The stream server's response cannot be read."),
    (httpx.InvalidURL, InvalidRequest, "The request cannot be passed on to the stream server."),
)

_REFUSED: dict[int, tuple[type[DurableChatError], str]] = {
    400: (InvalidRequest, "The stream server refused the request as invalid."),
    401: (UpstreamAuth, "The stream server refused this server's credentials."),
    403: (UpstreamAuth, "The stream server refused this server's credentials."),
    404: (NotFound, "There is no such stream."),
    409: (Conflict, "The stream's state does not allow the request."),
    410: (Gone, "The stream is gone."),
    413: (TooLarge, "The body is too large for the stream server."),
    415: (UnsupportedMediaType, "The stream server does not support the content type."),
    501: (UpstreamFailed, "The stream server does not support the operation."),
}


@dataclass(frozen=True, slots=True)
class Answer:
    """
    A response of the remote server. `repeated` is true if an earlier attempt of the same request may have been carried
    out without a response that reached us.
    """

    status: int
    headers: httpx.Headers
    body: bytes = b""
    repeated: bool = False

    @property
    def next_offset(self) -> str:
        """The offset after the stream's last message. Raises UpstreamFailed if it is missing or invalid."""
        return next_offset_of(self.headers)

    @property
    def closed(self) -> bool:
        return self.is_true("stream-closed")

    def is_true(self, name: str) -> bool:
        return is_true(self.headers, name)


@dataclass(frozen=True, slots=True)
class Ask:
    """A request to a stream. Every attempt sends `body` again."""

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str | bytes] = field(default_factory=dict)
    body: bytes = b""
    wants_body: bool = False
    attempts_max: int = ATTEMPTS_MAX


def is_true(headers: httpx.Headers, name: str) -> bool:
    """Return whether a flag of the protocol is `true`, in any case (PROTOCOL.md 4.1)."""
    return bool(headers.get(name, "").lower() == "true")


def next_offset_of(headers: httpx.Headers) -> str:
    offset: str = headers.get("stream-next-offset", "")
    if not is_offset_like(offset):
        raise UpstreamFailed("The stream server's response contains no valid offset.")
    return offset


def head_of(answer: Answer) -> Head:
    ttl = answer.headers.get("stream-ttl", "")
    return Head(
        answer.headers.get("content-type") or BINARY,
        answer.next_offset,
        is_true(answer.headers, "stream-closed"),
        int(ttl) if ttl.isascii() and ttl.isdigit() else None,
        answer.headers.get("stream-expires-at"),
    )


def foreign(error: Exception) -> DurableChatError:
    """Return our error for an exception of httpx."""
    kind, sentence = next((ours, text) for theirs, ours, text in _FOREIGN if isinstance(error, theirs))
    return kind(sentence)


def refusal(status: int, headers: httpx.Headers) -> DurableChatError:
    """Return our error for a failed response. Its message contains no text of the remote server."""
    if status == 403 and (epoch := _number(headers, "producer-epoch")) is not None:
        return StaleEpoch(epoch)
    if status == 409 and is_true(headers, "stream-closed"):
        return StreamClosed(next_offset_of(headers))
    if status == 409 and (expected := _number(headers, "producer-expected-seq")) is not None:
        return SequenceGap(expected, _number(headers, "producer-received-seq") or 0)
    if status in _REFUSED:
        kind, sentence = _REFUSED[status]
        return kind(sentence)
    if status == 429 or status >= 500:
        return UpstreamDown("The stream server is temporarily unavailable.", retry_after_s=retry_after_s(headers))
    return UpstreamFailed(f"The stream server answered {status}, which the protocol does not allow here.")


def _number(headers: httpx.Headers, name: str) -> int | None:
    text = headers.get(name, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 16 else None


def retry_after_s(headers: httpx.Headers) -> int:
    """Return `Retry-After` in seconds, from 1 to RETRY_AFTER_MAX_S. RFC 9110 section 10.2.3 defines its two forms."""
    text = headers.get("retry-after", "")
    seconds = _number(headers, "retry-after")
    if seconds is None and text and (now := headers.get("date")):
        try:
            seconds = int((parsedate_to_datetime(text) - parsedate_to_datetime(now)).total_seconds())
        except (ValueError, TypeError):
            seconds = None
    return min(max(seconds or 1, 1), RETRY_AFTER_MAX_S)


def backoff_s(attempt: int) -> float:
    """Return the pause after an attempt, counted from 0. Jitter shortens it by at most half."""
    whole = min(BACKOFF_MIN_S * 2.0 ** min(attempt, 16), BACKOFF_MAX_S)
    return whole * random.uniform(0.5, 1.0)


class UpstreamWire:
    """
    The streams of a remote server under one address. Holds two connection pools and the secret. The secret, and
    `headers` for every request, are used in requests only. Cookies are neither stored nor sent, redirects are not
    followed, and proxies from the environment are not used.
    """

    def __init__(
        self,
        base_url: str,
        secret: str | None,
        headers: Mapping[str, str] | None = None,
        answer_max_s: float = ANSWER_MAX_S,
    ) -> None:
        self._base_url = _checked_url(base_url)
        self._answer_max_s = answer_max_s
        self._headers = {"user-agent": "durable-chat", **_checked_headers(headers or {})}
        if secret:
            self._headers |= _checked_headers({"Authorization": f"Bearer {secret}"})
        exchange = httpx.Timeout(answer_max_s, connect=CONNECT_MAX_S)
        live = httpx.Timeout(SILENCE_MAX_S, connect=CONNECT_MAX_S, pool=CONNECT_MAX_S)
        self._exchanges = _client(EXCHANGES_MAX, exchange)
        self._lives = _client(LIVE_READS_MAX, live)

    async def aclose(self) -> None:
        await self._exchanges.aclose()
        await self._lives.aclose()

    def address(self, path: str, query: Mapping[str, str] | None = None) -> str:
        """
        Return the address of a path of decoded segments. Each segment is encoded once, so none can lead to another
        stream. Query parameters are sorted by name, which improves caching.
        """
        segments = path.split("/")
        if any(segment in ("", ".", "..") for segment in segments):
            raise InvalidRequest("The path has an empty or relative segment.", code="bad_path")
        encoded = "/".join(quote(segment, safe="") for segment in segments)
        return f"{self._base_url}/{encoded}" + ("?" + urlencode(sorted(query.items())) if query else "")

    def stream_path(self, path: str) -> str:
        """Return the path of a stream's address on the remote server."""
        return urlsplit(self.address(path)).path

    def _with_ours(self, headers: Mapping[str, str | bytes]) -> dict[bytes, bytes]:
        """Add the headers of every request. The request's own headers take precedence."""
        joint = {**self._headers, **{name.lower(): value for name, value in headers.items()}}
        return {name.encode(): value if isinstance(value, bytes) else value.encode() for name, value in joint.items()}

    async def exchange(self, ask: Ask) -> Answer:
        """
        Send a request, and retry while the server does not respond or asks to retry later: up to `attempts_max`
        attempts, which start within EXCHANGE_MAX_S. The request must be idempotent. Return any other response as it is.
        Raises UpstreamDown.
        """
        loop = asyncio.get_running_loop()
        last_begin_s = loop.time() + EXCHANGE_MAX_S
        deadline_s = loop.time() + (BODY_MAX_S if ask.wants_body else EXCHANGE_MAX_S)
        repeated = False
        asked_s = 0
        failure: DurableChatError | None = None
        for attempt in range(ask.attempts_max):
            if failure is not None:
                pause_s = max(backoff_s(attempt - 1), asked_s)
                if asked_s > ASKED_PAUSE_MAX_S or loop.time() + pause_s >= last_begin_s:
                    break
                await asyncio.sleep(pause_s)
            try:
                async with asyncio.timeout_at(deadline_s):
                    answer = await self._attempt(ask)
            except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as error:
                failure, asked_s = foreign(error), 0
                if not isinstance(failure, UpstreamDown):
                    raise failure from error
                repeated = repeated or not isinstance(error, _NEVER_SENT)
                log.info("%s to the stream server failed: %s", ask.method, type(error).__name__)
                continue
            if answer.status not in RETRIED:
                return Answer(answer.status, answer.headers, answer.body, repeated)
            failure = refusal(answer.status, answer.headers)
            asked_s = retry_after_s(answer.headers) if "retry-after" in answer.headers else 0
            repeated = repeated or answer.status != 429
        assert failure is not None
        raise failure

    async def _attempt(self, ask: Ask) -> Answer:
        request = self._exchanges.build_request(
            ask.method, self.address(ask.path, ask.query), headers=self._with_ours(ask.headers), content=ask.body
        )
        response = await self._exchanges.send(request, stream=True)
        try:
            body = await read_body(response, wanted=ask.wants_body and response.is_success)
        finally:
            await response.aclose()
        return Answer(response.status_code, response.headers, body)

    async def ensure_stream(self, path: str, content_type: str, ttl_s: int | None = None) -> Answer:
        """Create a stream for its first reader unless it exists. Raises Conflict, UpstreamDown and others."""
        ttl = {} if ttl_s is None else {"Stream-TTL": str(ttl_s)}
        answer = await self.exchange(Ask("PUT", path, headers={"Content-Type": content_type, **ttl}))
        if answer.status not in (200, 201):
            raise refusal(answer.status, answer.headers)
        return answer

    async def open_live(
        self, path: str, query: Mapping[str, str], headers: Mapping[str, str | bytes] | None = None
    ) -> httpx.Response:
        """
        Begin a GET whose body arrives over time. The caller must close the response, whatever its status. Raises
        UpstreamDown, and UpstreamFailed or InvalidRequest for an invalid request.
        """
        try:
            address = self.address(path, query)
            request = self._lives.build_request("GET", address, headers=self._with_ours(headers or {}))
            async with asyncio.timeout(None if query.get("live") == "long-poll" else self._answer_max_s):
                try:
                    return await self._lives.send(request, stream=True)
                except _STALE:
                    return await self._lives.send(request, stream=True)
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as error:
            raise foreign(error) from error


async def read_body(response: httpx.Response, *, wanted: bool) -> bytes:
    """Return the decoded body, at most BODY_BYTES_MAX. A body that is not wanted is read and dropped."""
    if not wanted:
        dropped = 0
        async for chunk in response.aiter_raw():
            dropped += len(chunk)
            if dropped > DRAINED_BYTES_MAX:
                break
        return b""
    chunks = []
    size = 0
    async for chunk in response.aiter_bytes():
        size += len(chunk)
        if size > BODY_BYTES_MAX:
            raise UpstreamFailed("The stream server's response is too large.")
        chunks.append(chunk)
    return b"".join(chunks)


def _checked_url(base_url: str) -> str:
    parts = urlsplit(base_url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise StartError("The stream server's address must begin with http:// or https:// and contain a host.")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise StartError("The stream server's address must have no user, query or fragment. Set DS_SECRET instead.")
    return base_url.rstrip("/")


def _checked_headers(headers: Mapping[str, str]) -> dict[str, str]:
    if not all(value.isascii() and value.isprintable() for value in headers.values()):
        raise StartError("The stream server's secret (DS_SECRET) and headers must be printable ASCII.")
    return {name.lower(): value for name, value in headers.items()}


def _client(connections_max: int, timeout: httpx.Timeout) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        timeout=timeout,
        limits=httpx.Limits(max_connections=connections_max, max_keepalive_connections=32),
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
        follow_redirects=False,
        trust_env=False,
    )
