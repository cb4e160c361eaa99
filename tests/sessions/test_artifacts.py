"""Files of sessions are stored once, live as long as their session and belong to it alone, on every store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from durable_chat.app import open_any_store
from durable_chat.config.settings import Settings
from durable_chat.errors import NotFound, StreamClosed, Unavailable
from durable_chat.protocol.messages import JSON, Payload
from durable_chat.protocol.requests import Append, Create
from durable_chat.sessions.artifacts import KEPT_MS, KIND, Artifacts, artifact_name
from durable_chat.sessions.session import Session
from durable_chat.sessions.sessions import session_path
from durable_chat.store.base import Log, RecordWrite, Store
from durable_chat.store.clocks import unix_ms
from durable_chat.store.opening import make_backend
from durable_chat.transcripts.attachments import Artifact, hash_of
from tests.sessions.serving import open_on

PATH = session_path("s")
FAR_MS = 10 * KEPT_MS
PNG = Artifact(hash_of(b"p" * 3_000_000), "image/png", b"p" * 3_000_000)
PAGE = Artifact(hash_of(b"<script>"), "text/html", b"<script>")


@pytest.fixture
async def store(any_store_url: str) -> AsyncIterator[Store]:
    made = await open_any_store(Settings(store=any_store_url))
    yield made
    await made.close()


@pytest.fixture(params=["memory", "sqlite"])
async def local(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    url = "memory://" if request.param == "memory" else f"sqlite:///{tmp_path}/chat.db"
    made = await open_any_store(Settings(store=url))
    yield made
    await made.close()


async def begin(store: Store, path: str = PATH, ttl_s: int | None = None) -> Artifacts:
    await store.log.create(path, Create(JSON, ttl_s))
    return Artifacts(store.log, store.records)


async def refer(store: Store, *artifacts: Artifact) -> None:
    """Append chunks that refer to artifacts, in small pieces, as a remote store may return them."""
    for artifact in artifacts:
        data = b'{"type":"CUSTOM","value":"/api/chat-artifact?id=s&artifact=%s"}' % artifact.id.encode()
        await store.log.append(PATH, Append(Payload(data, (len(data),)), JSON))


async def is_there(store: Store, artifact: Artifact, path: str = PATH) -> bool:
    try:
        await store.log.head(artifact_name(path, artifact.id))
    except NotFound:
        return False
    return True


async def test_stored_once(store: Store) -> None:
    """The same file stored twice is one closed stream of its type. Its bytes are complete, also for another process."""
    artifacts = await begin(store)
    await artifacts.store(PATH, [PNG, PNG, PAGE])
    await Artifacts(store.log, store.records).store(PATH, [PNG])
    head = await store.log.head(artifact_name(PATH, PNG.id))
    assert head.closed
    assert head.content_type == "image/png"
    assert await Artifacts(store.log, store.records).load(PATH, PNG.id) == PNG.data


async def test_a_range_is_read(store: Store) -> None:
    """Any range can be read, including one that spans several reads."""
    artifacts = await begin(store)
    data = bytes(number % 251 for number in range(2_500_000))
    await artifacts.store(PATH, [Artifact(hash_of(data), "video/mp4", data)])
    found = await artifacts.find(PATH, hash_of(data))
    assert found.size == len(data)
    for start, stop in ((0, 1), (1, 1_999_999), (1_048_575, 1_048_577), (2_499_999, 2_500_000), (5, 5)):
        assert b"".join([piece async for piece in artifacts.read(found, start, stop)]) == data[start:stop]


async def test_a_page_is_bytes(store: Store) -> None:
    """A type that a browser would execute is stored as bytes. JSON is not split into messages."""
    artifacts = await begin(store)
    listed = Artifact(hash_of(b"[1,2]"), "application/json", b"[1,2]")
    await artifacts.store(PATH, [PAGE, listed])
    for artifact in (PAGE, listed):
        assert (await store.log.head(artifact_name(PATH, artifact.id))).content_type == "application/octet-stream"
        assert await artifacts.load(PATH, artifact.id) == artifact.data


async def test_only_of_its_own_session(store: Store) -> None:
    """The id gives nothing in another session, in an unknown session, or after the session was deleted."""
    artifacts = await begin(store)
    await store.log.create(session_path("other"), Create(JSON))
    await artifacts.store(PATH, [PNG])
    for path in (session_path("other"), session_path("nobody")):
        with pytest.raises(NotFound):
            await artifacts.find(path, PNG.id)
    with pytest.raises(NotFound):
        await artifacts.find(PATH, PAGE.id)
    await store.log.delete(PATH)
    with pytest.raises(NotFound):
        await artifacts.find(PATH, PNG.id)


async def test_nothing_is_stored_for_a_closed_session(store: Store) -> None:
    """No file is stored, because nothing could refer to it."""
    artifacts = await begin(store)
    await store.log.append(PATH, Append(close=True))
    with pytest.raises(StreamClosed):
        await artifacts.store(PATH, [PNG])
    assert not await is_there(store, PNG)


async def test_deleted_with_their_session(store: Store) -> None:
    """All artifacts that the log ever named are deleted. Other sessions keep theirs. Deleting twice is no error."""
    artifacts = await begin(store)
    other = session_path("other")
    await store.log.create(other, Create(JSON))
    await artifacts.store(PATH, [PNG, PAGE])
    await artifacts.store(other, [PNG])
    await refer(store, PNG, PAGE)
    await artifacts.delete(PATH)
    await artifacts.delete(PATH)
    assert not await is_there(store, PNG)
    assert not await is_there(store, PAGE)
    assert await artifacts.load(other, PNG.id) == PNG.data
    await artifacts.delete(session_path("nobody"))


async def test_what_nothing_refers_to_goes_too(local: Store) -> None:
    """After a crash before the log was written, the artifact has only a record. Deleting the session finds it."""
    artifacts = await begin(local)
    await artifacts.store(PATH, [PNG])
    await artifacts.delete(PATH)
    assert not await is_there(local, PNG)
    assert local.records is not None
    assert await local.records.records(KIND) == []


async def test_swept_when_the_session_is_gone(local: Store) -> None:
    """If the session was deleted another way, its artifacts are deleted when they are due, and not earlier."""
    artifacts = await begin(local)
    await artifacts.store(PATH, [PNG, PAGE])
    await local.log.delete(PATH)
    await artifacts.sweep(unix_ms())
    assert await is_there(local, PNG)
    await artifacts.sweep(unix_ms() + FAR_MS)
    assert not await is_there(local, PNG)
    assert not await is_there(local, PAGE)
    assert local.records is not None
    assert await local.records.records(KIND) == []


async def test_a_session_that_lives_keeps_them(local: Store) -> None:
    """Sweeps never delete the artifacts of an existing session."""
    artifacts = await begin(local)
    await artifacts.store(PATH, [PNG])
    for times in (1, 2, 3):
        await artifacts.sweep(unix_ms() + times * FAR_MS)
    assert await artifacts.load(PATH, PNG.id) == PNG.data


async def test_another_life_of_the_session_has_none(local: Store) -> None:
    """A session that was deleted and begins again has only the artifacts that are posted again."""
    artifacts = await begin(local)
    await artifacts.store(PATH, [PNG, PAGE])
    await local.log.delete(PATH)
    await local.log.create(PATH, Create(JSON))
    with pytest.raises(NotFound):
        await artifacts.find(PATH, PNG.id)
    await artifacts.store(PATH, [PNG])
    assert await artifacts.load(PATH, PNG.id) == PNG.data
    await artifacts.sweep(unix_ms() + FAR_MS)
    assert await artifacts.load(PATH, PNG.id) == PNG.data
    assert not await is_there(local, PAGE)


async def test_a_ttl_takes_the_session_and_then_its_artifacts(tmp_path: Path) -> None:
    """A session in use keeps old artifacts that nobody reads. When it expires, its artifacts expire too."""
    now = [unix_ms()]
    async with AsyncExitStack() as stack:
        made = await open_on(make_backend(f"sqlite:///{tmp_path}/chat.db"), lambda: now[0])
        stack.push_async_callback(made.close)
        artifacts = await begin(made, ttl_s=60)
        await artifacts.store(PATH, [PNG])
        for _ in range(5):
            now[0] += 50_000
            await refer(made, PNG)
        await artifacts.sweep(now[0] + FAR_MS)
        assert await artifacts.load(PATH, PNG.id) == PNG.data
        now[0] += 61_000
        with pytest.raises(NotFound):
            await artifacts.find(PATH, PNG.id)
        await artifacts.sweep(now[0] + 2 * FAR_MS)
        assert not await is_there(made, PNG)


async def test_stored_and_swept_at_once(local: Store) -> None:
    """A file that is posted again during its sweep exists afterwards."""
    artifacts = await begin(local)
    await artifacts.store(PATH, [PNG])
    for _ in range(10):
        await local.log.delete(PATH)
        await local.log.create(PATH, Create(JSON))
        await asyncio.gather(artifacts.sweep(unix_ms() + FAR_MS), artifacts.store(PATH, [PNG]))
        assert await artifacts.load(PATH, PNG.id) == PNG.data


class FailingLog:
    """A log whose appends fail while `fails` is set. It records what is created."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self.fails = True
        self.created: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    async def append(self, *args: Any) -> Any:
        if self.fails:
            raise Unavailable("The log takes nothing now.")
        return await self._log.append(*args)

    async def create(self, path: str, request: Create) -> Any:
        self.created.append(path)
        return await self._log.create(path, request)


async def test_a_request_that_was_cut_off_is_made_again(store: Store) -> None:
    """If the file was stored but not the chunk that refers to it, a retry finds the file and does not send it again."""
    log: Any = FailingLog(store.log)
    artifacts = Artifacts(log, store.records)
    session = Session(log, "s", PATH, artifacts=artifacts)
    await session.keep([PNG])
    with pytest.raises(Unavailable):
        await session.append([b"{}"])
    assert await is_there(store, PNG)
    log.fails = False
    await session.keep([PNG])
    await session.append([b"{}"])
    assert log.created.count(artifact_name(PATH, PNG.id)) == 1
    assert await artifacts.load(PATH, PNG.id) == PNG.data
    await session.delete()
    await session.keep([PNG])  # the session begins again, with the file
    assert await artifacts.load(PATH, PNG.id) == PNG.data


async def test_swept_by_itself(local: Store) -> None:
    """Due artifacts are swept in the background, also after a failure, until the sweeper is stopped."""
    await begin(local)
    records: Any = FailingRecords(local.records)
    artifacts = Artifacts(local.log, records, swept_every_s=0.01)
    await artifacts.store(PATH, [PNG])
    await local.log.delete(PATH)
    (record,) = await records.records(KIND)
    await records.write_records([RecordWrite(KIND, record.key, record.value, due_ms=1)])
    artifacts.start()
    async with asyncio.timeout(20):
        await records.failed.wait()
        await records.forgotten.wait()
        await artifacts.close()
    assert not await is_there(local, PNG)
    await Artifacts(local.log, None).close()


class FailingRecords:
    """Records whose first query for due records fails. They signal when one is deleted."""

    def __init__(self, records: Any) -> None:
        self._records = records
        self.failed = asyncio.Event()
        self.forgotten = asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._records, name)

    async def write_records(self, writes: Sequence[RecordWrite]) -> None:
        await self._records.write_records(writes)
        if any(write.value is None for write in writes):
            self.forgotten.set()

    async def records(self, kind: str, *, due_before_ms: int | None = None, prefix: str = "") -> Any:
        if due_before_ms is not None and not self.failed.is_set():
            self.failed.set()
            raise Unavailable("The store takes nothing now.")
        return await self._records.records(kind, due_before_ms=due_before_ms, prefix=prefix)


def test_no_session_is_an_artifact() -> None:
    """No session id leads to the path of an artifact's stream."""
    name: Any = artifact_name(PATH, PNG.id)
    for session_id in (name, f"x/../{name}", f"../{name}", f"artifact-{PNG.id}"):
        assert session_path(session_id) != name
