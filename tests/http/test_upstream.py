"""A remote store: npm's reference server unchanged, and remotes that misbehave."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest

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
    UpstreamAuth,
    UpstreamDown,
    UpstreamFailed,
)
from durable_chat.http.upstream.log import CLAIMS_MAX, PRODUCER_ID, Upstream, open_upstream
from durable_chat.http.upstream.wire import ATTEMPTS_MAX, retry_after_s
from durable_chat.protocol.messages import BINARY, JSON, Payload, join_messages
from durable_chat.protocol.requests import Append, Create, Fork, Producer
from durable_chat.store.base import Reader
from tests.conftest import ServeNpm
from tests.http.remotes import (
    START,
    Behaviour,
    Heard,
    Remote,
    Wire,
    ask,
    control,
    data,
    reader_client,
    relay,
    remote,
    silent,
    upstream_at,
)
from tests.servers import NpmServer

PATH = "chat-a%2Fb"


def base(server: NpmServer) -> str:
    return f"{server.url}/v1/stream/service"


def messages(*texts: str) -> Append:
    return Append(join_messages([text.encode() for text in texts]), JSON)


@pytest.fixture
async def upstream(npm_server: NpmServer) -> AsyncIterator[Upstream]:
    async with upstream_at(base(npm_server)) as opened:
        yield opened


async def everything(upstream: Upstream, path: str = PATH) -> bytes:
    """Return all of a stream by plain reads."""
    found = b""
    async with await upstream.read(path, "-1") as reader:
        while True:
            batch = await reader.next()
            found += b"," + batch.data if found and batch.data else batch.data
            if batch.up_to_date:
                return found


async def arrived(reader: Reader, size: int) -> bytes:
    """Return what a live reader got, once it has this many bytes."""
    found = b""
    while len(found) < size:
        batch = await reader.next(20)
        assert batch.data, "nothing came"
        found += b"," + batch.data if found else batch.data
    return found


# Against the reference server.


async def test_create_append_read_and_delete(upstream: Upstream) -> None:
    """A stream can be created, appended to, read message by message, closed and deleted."""
    created = await upstream.create(PATH, Create(JSON))
    assert (created.existed, created.content_type) == (False, JSON)
    assert (await upstream.create(PATH, Create(JSON))).existed
    first = await upstream.append(PATH, messages('{"n":1}', "2"))
    second = await upstream.append(PATH, messages("[3]"))
    assert created.next_offset < first.next_offset < second.next_offset
    assert (await upstream.head(PATH)).next_offset == second.next_offset
    assert await everything(upstream) == b'{"n":1},2,[3]'
    async with await upstream.read(PATH, first.next_offset) as reader:
        batch = await reader.next()
    assert (batch.offset, batch.next_offset, batch.data) == (first.next_offset, second.next_offset, b"[3]")
    await upstream.delete(PATH)
    for gone in (upstream.head(PATH), upstream.read(PATH, "-1"), upstream.delete(PATH)):
        with pytest.raises(NotFound):
            await gone


async def test_path_is_encoded_once(upstream: Upstream) -> None:
    """
    Percent signs and slashes of a session id stay in its one path segment, so that two sessions never share a stream.
    """
    for path in ("chat-a%2Fb", "chat-a%252Fb", "chat-a%2Fb%3Fc", "chat-ü &?#=", "chat-..", "a/chat-b"):
        await upstream.create(path, Create(JSON, payload=join_messages([b"1"])))
        await upstream.append(path, messages("2"))
        assert await everything(upstream, path) == b"1,2"


@pytest.mark.parametrize("path", ["", "..", "a/../b", "a//b", "/a", "a/."])
async def test_relative_path_is_refused(upstream: Upstream, path: str) -> None:
    """A relative path cannot leave the store's address."""
    with pytest.raises(InvalidRequest):
        await upstream.head(path)


async def test_conflicts_have_their_errors(upstream: Upstream) -> None:
    """A refusal of the remote raises the same error as an embedded store."""
    await upstream.create(PATH, Create(JSON))
    with pytest.raises(Conflict):
        await upstream.create(PATH, Create(BINARY))
    with pytest.raises(Conflict):
        await upstream.append(PATH, Append(Payload(b"x"), BINARY))
    with pytest.raises(InvalidRequest):
        await upstream.append(PATH, Append(Payload(b"{", (1,)), JSON))
    with pytest.raises(NotFound):
        await upstream.append("chat-none", messages("1"))
    for offset in ("", "a b", "1,2", "x" * 600, "7"):
        with pytest.raises(InvalidRequest):
            await upstream.read(PATH, offset)
    closed = await upstream.append(PATH, Append(join_messages([b"1"]), JSON, close=True))
    assert closed.closed
    with pytest.raises(StreamClosed) as refused:
        await upstream.append(PATH, messages("2"))
    assert refused.value.next_offset == closed.next_offset
    assert await everything(upstream) == b"1"


async def test_refused_append_leaves_the_next_its_number(upstream: Upstream) -> None:
    """The append after a refused one is accepted."""
    await upstream.create(PATH, Create(JSON))
    await upstream.append(PATH, messages("1"))
    with pytest.raises(InvalidRequest):
        await upstream.append(PATH, Append(Payload(b"{", (1,)), JSON))
    appended = await upstream.append(PATH, messages("2"))
    assert appended.producer is not None
    assert appended.producer.seq == 1
    assert await everything(upstream) == b"1,2"


async def test_soft_deleted_source_is_gone(upstream: Upstream) -> None:
    """A deleted source that a fork still uses answers Gone, and the fork has its messages."""
    await upstream.create("source", Create(JSON, payload=join_messages([b"1"])))
    await upstream.create("fork", Create(fork=Fork("source")))
    await upstream.delete("source")
    with pytest.raises(Gone):
        await upstream.head("source")
    assert await everything(upstream, "fork") == b"1"


async def test_concurrent_appends_keep_their_order(upstream: Upstream) -> None:
    """Concurrent appends to a stream are written once each, in the order of the calls."""
    await upstream.create(PATH, Create(JSON))
    await asyncio.gather(*(upstream.append(PATH, messages(str(n))) for n in range(40)))
    assert await everything(upstream) == b",".join(str(n).encode() for n in range(40))


async def test_a_new_writer_fences_the_one_before(npm_server: NpmServer, upstream: Upstream) -> None:
    """
    The writer that claims a stream last may write. Each append of the earlier writer fails until it has read the new
    messages.
    """
    await upstream.create(PATH, Create(JSON))
    await upstream.append(PATH, messages("1"))
    async with upstream_at(base(npm_server)) as successor:
        await successor.append(PATH, messages("2"))
        for _ in range(2):
            with pytest.raises(StaleEpoch):
                await upstream.append(PATH, messages("3"))
        await upstream.create(PATH, Create(JSON))
        with pytest.raises(StaleEpoch):
            await upstream.append(PATH, messages("3"))
        await successor.append(PATH, messages("4"))
        assert await everything(upstream) == b"1,2,4"
        await upstream.append(PATH, messages("5"))
        with pytest.raises(StaleEpoch):
            await successor.append(PATH, messages("6"))
    assert await everything(upstream) == b"1,2,4,5"


async def test_a_new_writer_claims_above_a_clock_that_is_ahead(npm_server: NpmServer, upstream: Upstream) -> None:
    """A process whose clock is behind can claim a stream, and loses no message."""
    await upstream.create(PATH, Create(JSON))
    await upstream.append(PATH, messages("1"))
    behind = Upstream(base(npm_server), None, epoch=lambda: 0)
    try:
        appended = await behind.append(PATH, messages("2"))
        await behind.append(PATH, messages("3"))
    finally:
        await behind.aclose()
    assert not appended.duplicate
    assert await everything(upstream) == b"1,2,3"


async def test_a_stream_that_begins_anew_is_written_on(npm_server: NpmServer, upstream: Upstream) -> None:
    """
    When others delete a stream and create it again, it has no producer state, and the writer claims it again by
    itself.
    """
    await upstream.create(PATH, Create(JSON))
    for text in ("1", "2"):
        await upstream.append(PATH, messages(text))
    async with upstream_at(base(npm_server)) as other:
        await other.delete(PATH)
        await other.create(PATH, Create(JSON))
    await upstream.append(PATH, messages("3"))
    assert await everything(upstream) == b"3"


async def test_a_callers_own_producer_is_used_as_it_is(upstream: Upstream) -> None:
    """A caller that sets producer numbers itself gets the protocol's answers to them."""
    await upstream.create(PATH, Create(JSON))
    request = Append(join_messages([b"1"]), JSON, producer=Producer("mine", 3, 0))
    first = await upstream.append(PATH, request)
    again = await upstream.append(PATH, request)
    assert (first.duplicate, again.duplicate, again.next_offset) == (False, True, first.next_offset)
    with pytest.raises(StaleEpoch) as refused:
        await upstream.append(PATH, Append(join_messages([b"2"]), JSON, producer=Producer("mine", 2, 0)))
    assert refused.value.current_epoch == 3
    assert await everything(upstream) == b"1"


async def test_reader_follows_live(npm_server: NpmServer, upstream: Upstream) -> None:
    """A reader at the tail waits, gets new messages, and sees the close."""
    await upstream.create(PATH, Create(JSON, payload=join_messages([b"0"])))
    async with await upstream.read(PATH, "now") as reader:
        assert reader.head.next_offset == (await upstream.head(PATH)).next_offset
        assert (await reader.next()).data == b""
        waiting = asyncio.ensure_future(reader.next(20))
        await upstream.append(PATH, messages("1", "2"))
        assert (await waiting).data == b"1,2"
        assert (await reader.next(0.01)).data == b""
        await upstream.append(PATH, Append(join_messages([b"3"]), JSON, close=True))
        assert await arrived(reader, 1) == b"3"
        last = await reader.next(20)
        assert last.closed
        assert last.data == b""


@pytest.mark.parametrize(("content_type", "text"), [(BINARY, bytes(range(256))), ("text/plain", b"a\r\nb\rc\n\n d\n")])
async def test_live_bytes_are_exact(upstream: Upstream, content_type: str, text: bytes) -> None:
    """A live read of a stream that is not JSON returns exactly the appended bytes."""
    await upstream.create(PATH, Create(content_type))
    async with await upstream.read(PATH, "-1") as reader:
        waiting = asyncio.ensure_future(reader.next(20))
        await upstream.append(PATH, Append(Payload(text), content_type))
        assert (await waiting).data == text


async def test_reader_of_an_absent_stream(upstream: Upstream) -> None:
    """An absent stream reads as empty, plain reads create nothing, and the first wait makes it live."""
    with pytest.raises(NotFound):
        await upstream.read(PATH, "-1")
    async with await upstream.read(PATH, "-1", absent=JSON) as reader:
        assert (reader.head.content_type, reader.head.next_offset) == (JSON, START)
        for _ in range(2):
            batch = await reader.next()
            assert (batch.data, batch.next_offset, batch.up_to_date) == (b"", START, True)
        with pytest.raises(NotFound):
            await upstream.head(PATH)
        assert (await reader.next(0.01)).data == b""
        waiting = asyncio.ensure_future(reader.next(20))
        await upstream.create(PATH, Create(JSON))
        await upstream.append(PATH, messages("1"))
        assert (await waiting).data == b"1"


async def test_reader_is_told_that_the_stream_was_deleted(upstream: Upstream) -> None:
    """A waiting reader gets NotFound when the stream is deleted."""
    await upstream.create(PATH, Create(JSON))
    async with await upstream.read(PATH, "-1") as reader:
        assert (await reader.next()).up_to_date
        await upstream.delete(PATH)
        with pytest.raises(NotFound):
            await reader.next()


async def test_reader_goes_on_after_the_server_was_killed(serve_npm: ServeNpm) -> None:
    """After the server is killed and restarted on the same files, a live reader gets every message once."""
    server = serve_npm()
    async with upstream_at(base(server)) as upstream:
        await upstream.create(PATH, Create(JSON))
        async with await upstream.read(PATH, "-1") as reader:
            await upstream.append(PATH, messages("10"))
            assert await arrived(reader, 2) == b"10"
            waiting = asyncio.ensure_future(arrived(reader, 2))
            server.kill()
            await asyncio.to_thread(server.start)
            await upstream.append(PATH, messages("20"))
            assert await waiting == b"20"
        assert await everything(upstream) == b"10,20"


async def test_server_that_is_down_is_said_to_be_down(nobody: str) -> None:
    """When nobody listens, the store reports that the log is down and when to retry."""
    async with upstream_at(f"{nobody}/v1/stream") as upstream:
        for asked in (upstream.head(PATH), upstream.read(PATH, "-1"), upstream.append(PATH, messages("1"))):
            with pytest.raises(UpstreamDown) as refused:
                await asked
            assert refused.value.status == 503
            assert int(refused.value.headers["Retry-After"]) >= 1


@pytest.mark.parametrize(
    "url", ["ftp://host/", "https://", "https://me:pw@host/v1/stream", "http://h/v1?x=1", "http://h/#f"]
)
async def test_address_that_cannot_be_used_is_a_start_error(url: str) -> None:
    """A remote address that contains a secret or names no stream server is an error at start."""
    with pytest.raises(StartError):
        await open_upstream(url, None)


async def test_secret_that_fits_no_header_is_a_start_error() -> None:
    """A secret with a line end, which would start another header, is an error at start."""
    for secret in ("a\r\nb", "a\x00b", "ä"):
        with pytest.raises(StartError) as refused:
            await open_upstream("http://127.0.0.1:1/v1/stream", secret)
        assert secret not in str(refused.value)


# Against remotes that misbehave.


def dropping(target: str, drops: int, *, applied: bool = True, methods: str = "POST") -> Behaviour:
    """Cut the connection instead of answering, this many times, after the server behind has applied the request."""
    left = drops

    async def behave(request: Heard, wire: Wire) -> None:
        nonlocal left
        if request.method not in methods or not left:
            return await relay(target)(request, wire)
        left -= 1
        if applied:
            await ask(target, request)
        return wire.cut()

    return behave


def path_to(server: NpmServer, told: Remote) -> str:
    return f"http://127.0.0.1:{told.port}/v1/stream/service"


@pytest.mark.parametrize("applied", [True, False])
async def test_append_whose_answer_is_lost_is_appended_once(npm_server: NpmServer, applied: bool) -> None:
    """
    Whether or not the remote applied the lost append, the retry writes the message exactly once and returns its
    offset.
    """
    async with (
        remote(dropping(npm_server.url, 2, applied=applied)) as told,
        upstream_at(path_to(npm_server, told)) as upstream,
    ):
        await upstream.create(PATH, Create(JSON))
        first = await upstream.append(PATH, messages("1"))
        second = await upstream.append(PATH, messages("2"))
        assert first.duplicate is applied
        assert first.next_offset < second.next_offset
        assert await everything(upstream) == b"1,2"
        posts = told.of("POST")
        assert [request.numbers[1] for request in posts] == [0, 0, 0, 1]
        assert len({request.numbers[0] for request in posts}) == 1


@asynccontextmanager
async def after_a_lost_append(npm_server: NpmServer) -> AsyncIterator[tuple[Upstream, Remote]]:
    """Return a stream with an append that was applied although no attempt got an answer."""
    async with (
        remote(dropping(npm_server.url, ATTEMPTS_MAX)) as told,
        upstream_at(path_to(npm_server, told)) as upstream,
    ):
        await upstream.create(PATH, Create(JSON))
        with pytest.raises(UpstreamDown):
            await upstream.append(PATH, messages("1"))
        yield upstream, told


async def test_append_repeated_by_its_caller_is_appended_once(npm_server: NpmServer) -> None:
    """
    When all attempts fail the caller gets an error, and when it repeats the append, the message is not written twice.
    """
    async with after_a_lost_append(npm_server) as (upstream, _):
        assert (await upstream.append(PATH, messages("1"))).duplicate
        await upstream.append(PATH, messages("1"))
        assert await everything(upstream) == b"1,1"


async def test_another_append_after_a_lost_one_is_not_taken_for_it(npm_server: NpmServer) -> None:
    """
    An append that differs from an earlier one of unknown outcome is written too, and the earlier one cannot be
    written later.
    """
    async with after_a_lost_append(npm_server) as (upstream, told):
        await upstream.append(PATH, messages("2"))
        assert await everything(upstream) == b"1,2"
        lost, last = told.of("POST")[0], told.of("POST")[-1]
        assert last.numbers == (lost.numbers[0] + 1, 0)
        assert (await ask(npm_server.url, lost)).status_code == 403


async def test_cancelled_append_leaves_the_stream_writable(npm_server: NpmServer) -> None:
    """
    An append that is cancelled while it waits for its answer blocks no other append and uses up no sequence number.
    """
    reached = asyncio.Event()

    async def behave(request: Heard, wire: Wire) -> None:
        if request.body == b"[1]":
            await ask(npm_server.url, request)
            reached.set()
            return await wire.stay()
        return await relay(npm_server.url)(request, wire)

    async with remote(behave) as told, upstream_at(path_to(npm_server, told)) as upstream:
        await upstream.create(PATH, Create(JSON))
        appending = asyncio.ensure_future(upstream.append(PATH, messages("1")))
        await reached.wait()
        appending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await appending
        await upstream.append(PATH, messages("2"))
        assert await everything(upstream) == b"1,2"


def flaky(target: str, chance: random.Random) -> Behaviour:
    """
    Cut the connection or answer 503 in a third of the requests, before or after the request was applied. Cut live
    reads after some bytes, at any point.
    """

    async def behave(request: Heard, wire: Wire) -> None:
        if request.query.get("live") == "sse":
            return await _flaky_events(target, request, wire, chance.randrange(1, 2000))
        fault = chance.choice(["none"] * 8 + ["cut", "cut after", "503", "503 after"])
        if fault.endswith("after"):
            await ask(target, request)
        if fault.startswith("cut"):
            return wire.cut()
        if fault.startswith("503"):
            return await wire.answer(503)
        return await relay(target)(request, wire)

    return behave


async def _flaky_events(target: str, request: Heard, wire: Wire, left: int) -> None:
    async with reader_client() as client, client.stream("GET", target + request.target) as answer:
        await wire.begin()
        async for chunk in answer.aiter_bytes():
            await wire.chunk(chunk[:left])
            left -= len(chunk)
            if left <= 0 or wire.gone.is_set():
                break
    wire.cut()


@pytest.mark.parametrize("seed", [1, 2])
async def test_every_message_is_there_once_whatever_the_network_does(npm_server: NpmServer, seed: int) -> None:
    """
    With a network that loses a third of all answers, and a writer that retries when told to, the log and a live
    reader get every message once and in order.
    """
    expected = b",".join(b'{"message":%d}' % n for n in range(30))
    async with (
        remote(flaky(npm_server.url, random.Random(seed))) as told,
        upstream_at(path_to(npm_server, told)) as upstream,
    ):
        await upstream.create(PATH, Create(JSON))
        async with await upstream.read(PATH, "-1") as reader:
            await reader.next()
            reading = asyncio.ensure_future(arrived(reader, len(expected)))
            for n in range(30):
                request = messages(f'{{"message":{n}}}')
                while True:
                    try:
                        await upstream.append(PATH, request)
                        break
                    except UpstreamDown:
                        pass
            assert await reading == expected
        async with upstream_at(base(npm_server)) as direct:
            assert await everything(direct) == expected


@pytest.mark.parametrize("methods", ["PUT", "DELETE", "HEAD", "GET"])
async def test_other_requests_are_repeated_too(npm_server: NpmServer, methods: str) -> None:
    """Other requests are retried after a lost answer too, and a repeated delete is not an error."""
    async with (
        remote(dropping(npm_server.url, 1, methods=methods)) as told,
        upstream_at(path_to(npm_server, told)) as upstream,
    ):
        await upstream.create(PATH, Create(JSON, payload=join_messages([b"1"])))
        await upstream.head(PATH)
        assert await everything(upstream) == b"1"
        await upstream.delete(PATH)


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_later_is_honoured(npm_server: NpmServer, status: int) -> None:
    """A response with Retry-After is retried, and not before the time that it names."""
    times: list[float] = []
    clock = asyncio.get_running_loop().time

    async def behave(request: Heard, wire: Wire) -> None:
        times.append(clock())
        if len(times) == 1:
            return await wire.answer(status, {"Retry-After": "1"}, b"later")
        return await relay(npm_server.url)(request, wire)

    async with remote(behave) as told, upstream_at(path_to(npm_server, told)) as upstream:
        await upstream.create(PATH, Create(JSON))
        assert len(times) == 2
        assert times[1] - times[0] > 0.99


def numbered(*answers: tuple[int, dict[str, str]] | None) -> Behaviour:
    """Answer appends with these responses, one after another, and repeat the last one. `None`: cut off."""
    left = list(answers)

    async def behave(_: Heard, wire: Wire) -> None:
        answer = left.pop(0) if len(left) > 1 else left[0]
        if answer is None:
            return wire.cut()
        return await wire.answer(*answer)

    return behave


FENCED = (403, {"Producer-Epoch": str(2**52)})
GAP = (409, {"Producer-Expected-Seq": "0", "Producer-Received-Seq": "3"})


@pytest.mark.parametrize(
    ("answers", "error", "asked"),
    [
        ([FENCED], StaleEpoch, CLAIMS_MAX),
        ([GAP], StaleEpoch, CLAIMS_MAX),
        ([None, FENCED], StaleEpoch, 2),
        ([None, GAP], SequenceGap, 2),
        ([None, (409, {})], Conflict, 2),
    ],
)
async def test_a_claim_is_not_repeated_in_doubt(
    answers: list[tuple[int, dict[str, str]] | None], error: type[DurableChatError], asked: int
) -> None:
    """A new epoch is claimed a bounded number of times, and never for a message that may have been written."""
    async with remote(numbered(*answers)) as told, upstream_at(told.url) as upstream:
        with pytest.raises(error):
            await upstream.append(PATH, messages("1"))
        assert len(told.heard) == asked
        epochs = [request.numbers[0] for request in told.heard]
        assert epochs == sorted(epochs)
        assert len(set(epochs)) == (asked if answers[0] else 1)


async def test_writers_are_forgotten_in_the_order_of_their_use() -> None:
    """
    Producer numbers are kept for a bounded number of streams, and the least recently used is dropped. A dropped
    stream claims a newer epoch.
    """
    epochs = iter(range(10))
    ok = (200, {"Stream-Next-Offset": START})
    async with remote(numbered(ok)) as told:
        upstream = Upstream(told.url, None, epoch=lambda: next(epochs), writers_max=2)
        try:
            for path in ("a", "b", "a", "c", "a", "b"):
                await upstream.append(path, messages("1"))
        finally:
            await upstream.aclose()
        assert [request.numbers for request in told.heard] == [(0, 0), (1, 0), (0, 1), (2, 0), (0, 2), (3, 0)]


async def test_append_without_a_content_type_is_refused() -> None:
    """An append without a content type is the caller's error, and no request is sent."""
    async with remote(numbered((200, {}))) as told, upstream_at(told.url) as upstream:
        with pytest.raises(InvalidRequest):
            await upstream.append(PATH, Append(Payload(b"x")))
        assert told.heard == []


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("7", 7),
        ("0", 1),
        ("-7", 1),
        ("86400", 60),
        ("soon", 1),
        ("Wed, 21 Oct 2026 07:28:09 GMT", 9),
        ("Wed, 21 Oct 2020 07:28:00 GMT", 1),
    ],
)
def test_both_forms_of_retry_after(text: str, seconds: int) -> None:
    """Retry-After may be seconds or a date by the remote's clock. An invalid value counts as one second."""
    headers = httpx.Headers({"Retry-After": text, "Date": "Wed, 21 Oct 2026 07:28:00 GMT"})
    assert retry_after_s(headers) == seconds


REFUSALS: list[tuple[int, dict[str, str], type[DurableChatError]]] = [
    (401, {}, UpstreamAuth),
    (403, {}, UpstreamAuth),
    (403, {"Producer-Epoch": "what"}, UpstreamAuth),
    (503, {"Retry-After": "3600"}, UpstreamDown),
    (429, {"Retry-After": "3600"}, UpstreamDown),
    (404, {}, NotFound),
    (410, {}, Gone),
    (501, {}, UpstreamFailed),
    (302, {"Location": "http://127.0.0.1:1/"}, UpstreamFailed),
    (206, {}, UpstreamFailed),
    (200, {}, UpstreamFailed),
    (200, {"Stream-Next-Offset": 'a"b'}, UpstreamFailed),
    (200, {"Stream-Next-Offset": "a,b"}, UpstreamFailed),
]


@pytest.mark.parametrize(("status", "headers", "error"), REFUSALS)
async def test_answers_have_their_errors(status: int, headers: dict[str, str], error: type[DurableChatError]) -> None:
    """Every response of the remote gives the caller one of our errors, without delay and without the remote's text."""

    async def behave(request: Heard, wire: Wire) -> None:
        body = b"" if request.method == "HEAD" else b"s3cret at 10.0.0.1"
        await wire.answer(status, {"WWW-Authenticate": "Basic", **headers}, body)

    async with remote(behave) as told, upstream_at(told.url) as upstream:
        asked = [upstream.head(PATH), upstream.read(PATH, "-1"), upstream.append(PATH, messages("1"))]
        for ask_one in asked:
            with pytest.raises(error) as refused:
                await ask_one
            assert "s3cret" not in str(vars(refused.value))
            assert "10.0.0.1" not in str(vars(refused.value))
        assert len(told.heard) == 3
        assert all(request.headers["authorization"] == "Bearer s3cret" for request in told.heard)


async def test_retry_after_is_passed_on_within_reason() -> None:
    """A long Retry-After of the remote is passed on as 60 s."""

    async def behave(_: Heard, wire: Wire) -> None:
        await wire.answer(503, {"Retry-After": "86400"})

    async with remote(behave) as told, upstream_at(told.url) as upstream:
        with pytest.raises(UpstreamDown) as refused:
            await upstream.head(PATH)
        assert refused.value.headers == {"Retry-After": "60"}


async def test_endless_headers_and_bodies_are_cut() -> None:
    """A head or body without end is cut off, so that it holds no request and no memory."""

    async def behave(request: Heard, wire: Wire) -> None:
        if request.method == "HEAD":
            await wire.send(b"HTTP/1.1 200 OK\r\n")
            while not wire.gone.is_set():
                await wire.send(b"X-Filler: %s\r\n" % (b"x" * 1000))
        else:
            await wire.begin({"Stream-Next-Offset": START})
            while not wire.gone.is_set():
                await wire.chunk(b"x" * 1000)
        wire.cut()

    async with remote(behave) as told, upstream_at(told.url) as upstream:
        with pytest.raises(UpstreamDown):
            await upstream.head(PATH)
        assert (await upstream.append(PATH, messages("1"))).next_offset == START


async def test_headers_of_the_callers_own_go_with_every_request() -> None:
    """
    A target's own headers are sent with every request instead of a secret. A request's own headers take precedence.
    """

    async def behave(_: Heard, wire: Wire) -> None:
        await wire.answer(200, TAIL)

    async with remote(behave) as told:
        headers = {"Authorization": "Basic eDp5", "X-Tenant": "a", "Producer-Id": "other"}
        upstream = Upstream(told.url, None, headers=headers)
        try:
            await upstream.append(PATH, messages("1"))
        finally:
            await upstream.aclose()
        (request,) = told.heard
        assert (request.headers["authorization"], request.headers["x-tenant"]) == ("Basic eDp5", "a")
        assert request.headers["producer-id"] == PRODUCER_ID


async def test_remote_that_says_nothing_is_down() -> None:
    """A remote that accepts requests and never answers counts as down after the limit."""
    async with remote(silent) as told:
        upstream = Upstream(told.url, None, answer_max_s=0.05)
        try:
            with pytest.raises(UpstreamDown):
                await upstream.append(PATH, messages("1"))
            with pytest.raises(UpstreamDown):
                await upstream.wire.open_live(PATH, {"live": "sse", "offset": "now"})
            for wire in told.wires:
                await asyncio.wait_for(wire.gone.wait(), 20)
        finally:
            await upstream.aclose()
        assert len(told.of("POST")) == ATTEMPTS_MAX


async def test_cookies_are_never_sent_back() -> None:
    """The client never sends a remote's cookie back."""

    async def behave(_: Heard, wire: Wire) -> None:
        headers = {"Set-Cookie": "id=1; Path=/", "Stream-Next-Offset": START, "Content-Type": JSON}
        await wire.answer(200, headers)

    async with remote(behave) as told, upstream_at(told.url) as upstream:
        await upstream.head(PATH)
        await upstream.head(PATH)
        assert all("cookie" not in request.headers for request in told.heard)


@asynccontextmanager
async def following(behave: Behaviour) -> AsyncIterator[Reader]:
    """A reader at the tail of a remote's stream."""
    async with remote(behave) as told, upstream_at(told.url) as upstream, await upstream.read(PATH, "now") as reader:
        yield reader


def offset(position: int) -> str:
    return f"{0:016d}_{position:016d}"


TAIL = {"Content-Type": JSON, "Stream-Next-Offset": START, "Stream-Up-To-Date": "true"}


async def test_reader_resumes_after_a_cut_without_doubling() -> None:
    """
    After a cut between data and its control event, the reader resumes from the last position and gets the data once.
    """

    async def behave(request: Heard, wire: Wire) -> None:
        if "live" not in request.query:
            return await wire.answer(200, TAIL, b"[]")
        await wire.begin()
        if request.query["offset"] == START:
            await wire.chunk(data("[1]") + control(offset(1), upToDate="true") + data("[2]"))
            return wire.cut()
        assert request.query == {"cursor": "7", "live": "sse", "offset": offset(1)}
        await wire.chunk(data("[2]") + data("[3,4]") + control(offset(4), upToDate="true"))
        return await wire.stay()

    async with remote(behave) as told, upstream_at(told.url) as upstream:
        async with await upstream.read(PATH, "-1") as reader:
            assert (await reader.next()).data == b""
            first = await reader.next(20)
            second = await reader.next(20)
        assert (first.offset, first.next_offset, first.data) == (START, offset(1), b"1")
        assert (second.offset, second.next_offset, second.data) == (offset(1), offset(4), b"2,3,4")
        await asyncio.wait_for(told.wires[-1].gone.wait(), 20)


async def test_reader_resumes_after_a_clean_end() -> None:
    """A live read that the remote ends, as it does every minute, resumes at the same offset."""

    async def behave(request: Heard, wire: Wire) -> None:
        if "live" not in request.query:
            return await wire.answer(200, TAIL, b"[]")
        position = int(request.query["offset"][-4:])
        await wire.begin()
        await wire.chunk(data(f"[{position}]") + control(offset(position + 1), upToDate="true"))
        return await wire.end()

    async with following(behave) as reader:
        assert await arrived(reader, 5) == b"0,1,2"


async def test_event_in_any_pieces_is_one_event() -> None:
    """An event is read completely wherever the network splits it and whatever line ends it has."""
    event = ': hello\r\nevent: data\r\ndata: [\r\ndata: "ü"\r\ndata: ]\r\n\r\n'.encode() + control(offset(1))

    async def behave(request: Heard, wire: Wire) -> None:
        if "live" not in request.query:
            return await wire.answer(200, TAIL, b"[]")
        await wire.begin({"Content-Type": "Text/Event-Stream; charset=utf-8"})
        for at in range(len(event)):
            await wire.chunk(event[at : at + 1])
        return await wire.stay()

    async with following(behave) as reader:
        assert await arrived(reader, 4) == '"ü"'.encode()


BAD_STREAMS = [
    ({"Content-Type": "text/html"}, b"<p>"),
    ({"Content-Type": "text/event-stream"}, b"event: control\ndata: {}\n\n"),
    ({"Content-Type": "text/event-stream"}, b'event: control\ndata: {"streamNextOffset":"a b"}\n\n'),
    ({"Content-Type": "text/event-stream"}, b"event: control\ndata: \xff\n\n"),
    ({"Content-Type": "text/event-stream"}, data("nothing") + control(offset(1))),
    ({"Content-Type": "text/event-stream"}, data("[1]") + control(START)),
    ({"Content-Type": "text/event-stream", "Stream-SSE-Data-Encoding": "base64"}, data("@") + control(offset(1))),
]


@pytest.mark.parametrize(("headers", "body"), BAD_STREAMS)
async def test_live_read_that_breaks_the_protocol_fails(headers: dict[str, str], body: bytes) -> None:
    """A response that is not an event stream of the protocol raises an error."""

    async def behave(request: Heard, wire: Wire) -> None:
        if "live" not in request.query:
            return await wire.answer(200, TAIL, b"[]")
        await wire.begin(headers)
        return await wire.chunk(body)

    async with following(behave) as reader:
        with pytest.raises(UpstreamFailed):
            await reader.next(20)


async def test_live_read_that_never_begins_is_down() -> None:
    """A remote whose live reads all fail counts as down, after a bounded number of attempts."""

    async def behave(request: Heard, wire: Wire) -> None:
        if "live" not in request.query:
            return await wire.answer(200, TAIL, b"[]")
        return wire.cut()

    async with following(behave) as reader:
        with pytest.raises(UpstreamDown):
            await reader.next(30)


async def test_catch_up_follows_the_parts() -> None:
    """A long stream is read in the remote's parts, in order, compressed or not."""

    async def behave(request: Heard, wire: Wire) -> None:
        if request.method == "HEAD":
            return await wire.answer(200, {"Content-Type": JSON, "Stream-Next-Offset": offset(3)})
        position = 0 if request.query["offset"] == "-1" else int(request.query["offset"][-4:])
        headers = {"Content-Type": JSON, "Stream-Next-Offset": offset(position + 1)}
        if position == 2:
            headers["Stream-Up-To-Date"] = "true"
        return await wire.answer(200, headers, b' [ {"n":%d} ] ' % position)

    async with remote(behave) as told, upstream_at(told.url) as upstream:
        assert await everything(upstream) == b'{"n":0},{"n":1},{"n":2}'
        async with await upstream.read(PATH, "-1") as reader:
            assert reader.head.next_offset == offset(3)


async def test_remote_that_does_not_move_on_fails() -> None:
    """A remote that promises more data and sends none raises an error, instead of being asked forever."""

    async def behave(request: Heard, wire: Wire) -> None:
        await wire.answer(200, {"Content-Type": JSON, "Stream-Next-Offset": START}, b"[]")

    async with remote(behave) as told, upstream_at(told.url) as upstream:
        with pytest.raises(UpstreamFailed):
            await upstream.read(PATH, START)
