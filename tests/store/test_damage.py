"""Stored bytes that were changed or lost: the stream gets an error of its own, and all other streams work."""

from __future__ import annotations

import logging
import shutil
import sqlite3
from pathlib import Path

import httpx
import pytest

from durable_chat.errors import DurableChatError, StartError, StreamDamaged
from durable_chat.protocol.messages import BINARY, JSON, parse_payload
from durable_chat.protocol.offsets import ZERO
from durable_chat.protocol.requests import Create, Fork
from durable_chat.store.sqlite import compaction
from durable_chat.store.sqlite.backend import SqliteBackend
from durable_chat.store.streams import Streams
from tests.conftest import Serve
from tests.store.test_staging import LARGE_BYTES, append, body, contents, count, joined, opened

TYPES = [BINARY, "text/plain", JSON]
SIZES = [30, 90_000, 40, LARGE_BYTES, 50]

OF_A = "stream_id = (SELECT id FROM streams WHERE path = 'a')"
STAGED_A = f"staged = (SELECT staged FROM blobs WHERE {OF_A} AND staged IS NOT NULL)"
LAST_A = f"start = (SELECT max(start) FROM blobs WHERE {OF_A})"
FLIPPED = "CAST(substr({0}, 1, 20) || x'00' || substr({0}, 22) AS BLOB)"
CUT = "CAST(substr({0}, 1, length({0}) - 1) AS BLOB)"

BLOB_DAMAGES = {
    "a byte of a blob is flipped": f"UPDATE blobs SET data = {FLIPPED.format('data')} WHERE {OF_A} AND data IS NOT NULL",
    "a blob is cut": f"UPDATE blobs SET data = {CUT.format('data')} WHERE {OF_A} AND data IS NOT NULL",
    "a blob is empty": f"UPDATE blobs SET data = x'' WHERE {OF_A} AND data IS NOT NULL",
    "a blob has no data": f"UPDATE blobs SET data = NULL WHERE {OF_A}",
    "a size is changed": f"UPDATE blobs SET size = size + 1 WHERE {OF_A}",
    "a stop is changed": f"UPDATE blobs SET stop = stop + 1 WHERE {OF_A}",
    "a start is changed": f"UPDATE blobs SET start = start + 1 WHERE {OF_A} AND start = 0",
    "a check sum is changed": f"UPDATE blobs SET crc = crc + 1 WHERE {OF_A}",
    "the first blob is gone": f"DELETE FROM blobs WHERE {OF_A} AND start = 0",
    "the last blob is gone": f"DELETE FROM blobs WHERE {OF_A} AND {LAST_A}",
    "all blobs are gone": f"DELETE FROM blobs WHERE {OF_A}",
    "the staged blob is gone": f"DELETE FROM blobs WHERE {OF_A} AND staged IS NOT NULL",
    "the staged number is changed": f"UPDATE blobs SET staged = staged + 1000 WHERE {OF_A} AND staged IS NOT NULL",
    "a byte of a part is flipped": f"UPDATE parts SET data = {FLIPPED.format('data')} WHERE {STAGED_A} AND part = 1",
    "a part is cut": f"UPDATE parts SET data = {CUT.format('data')} WHERE {STAGED_A} AND part = 1",
    "the first part is gone": f"DELETE FROM parts WHERE {STAGED_A} AND part = 0",
    "the last part is gone": f"DELETE FROM parts WHERE {STAGED_A} AND part = 2",
    "all parts are gone": f"DELETE FROM parts WHERE {STAGED_A}",
    "parts are swapped": f"UPDATE parts SET part = CASE part WHEN 0 THEN 10 ELSE 0 END WHERE {STAGED_A} AND part < 2",
}
LENGTHS_DAMAGES = {
    "a length is flipped": f"UPDATE blobs SET lengths = CAST(x'07' || substr(lengths, 2) AS BLOB) WHERE {OF_A}",
    "lengths are cut": f"UPDATE blobs SET lengths = {CUT.format('lengths')} WHERE {OF_A}",
    "lengths are empty": f"UPDATE blobs SET lengths = x'' WHERE {OF_A}",
    "lengths are gone": f"UPDATE blobs SET lengths = NULL WHERE {OF_A}",
    "a length is too many": f"UPDATE blobs SET lengths = CAST(lengths || x'01000000' AS BLOB) WHERE {OF_A}",
}
JOURNAL_DAMAGES = {
    "a byte is flipped": f"UPDATE journal SET payload = {FLIPPED.format('payload')} WHERE seq = 5",
    "a row is cut": f"UPDATE journal SET payload = {CUT.format('payload')} WHERE seq = 5",
    "a row is in the place of another": "UPDATE journal SET (payload, crc) = (SELECT payload, crc FROM journal WHERE seq = 5) WHERE seq = 4",
    "the first row is gone": "DELETE FROM journal WHERE seq = (SELECT min(seq) FROM journal)",
    "a row in between is gone": "DELETE FROM journal WHERE seq = 5",
    "the last row is gone": "DELETE FROM journal WHERE seq = (SELECT max(seq) FROM journal)",
    "all rows are gone": "DELETE FROM journal",
}


@pytest.fixture(autouse=True)
def _no_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine, filling a store takes longer than the pause between two passes of the compaction."""
    monkeypatch.setattr(compaction, "PASS_S", 3600.0)


def damage(path: Path, statement: str) -> None:
    connection = sqlite3.connect(path)
    with connection:
        assert connection.execute(statement).rowcount > 0
    connection.close()


async def fill(path: Path, content_type: str, *, compacts: bool) -> dict[str, bytes]:
    """Fill a store with two streams and a fork. Return their content."""
    expected: dict[str, bytes] = {}
    async with opened(path) as (streams, backend):
        await streams.create("pin", Create(JSON, payload=parse_payload(JSON, b"1")))
        await backend.compact()
        for name in ("a", "b"):
            await streams.create(name, Create(content_type))
            for n, size in enumerate(SIZES):
                await streams.append(name, append(content_type, f"{name}{n}", size))
            expected[name] = joined(content_type, *(body(content_type, f"{name}{n}", s) for n, s in enumerate(SIZES)))
        await streams.create("fork", Create(fork=Fork("b", (await streams.head("b")).next_offset)))
        expected["fork"] = expected["b"]
        if compacts:
            await backend.compact()
    return expected


async def prefix(streams: Streams, path: str) -> tuple[bytes, DurableChatError | None]:
    """The readable beginning of a stream, and the error that ended it."""
    data: list[bytes] = []
    is_json = False
    try:
        async with await streams.read(path, ZERO) as reader:
            is_json = reader.head.content_type == JSON
            while part := (await reader.next()).data:
                data.append(part)
    except DurableChatError as error:
        return (b"," if is_json else b"").join(data), error
    return (b"," if is_json else b"").join(data), None


async def check_damaged(path: Path, content_type: str, expected: dict[str, bytes]) -> None:
    """
    The stream `a` returns its intact beginning and then the error, and refuses appends. Other streams are unchanged.
    This holds over restarts and compactions until the stream is deleted.
    """
    for _ in range(2):
        async with opened(path) as (streams, backend):
            data, error = await prefix(streams, "a")
            assert expected["a"].startswith(data) and len(data) < len(expected["a"])
            assert isinstance(error, StreamDamaged)
            for asked in (
                streams.append("a", append(content_type, "more", 10)),
                streams.head("a"),
                streams.create("of-a", Create(fork=Fork("a", ZERO))),
            ):
                with pytest.raises(StreamDamaged):
                    await asked
            for name in ("b", "fork"):
                assert await contents(streams, name) == expected[name]
            await streams.append("b", append(content_type, "more", 10))
            expected["b"] = joined(content_type, expected["b"], body(content_type, "more", 10))
            await backend.compact()
            assert await contents(streams, "b") == expected["b"]
    async with opened(path) as (streams, _):
        await streams.delete("a")
        await streams.create("a", Create(content_type))
        await streams.append("a", append(content_type, "new", 10))
        assert await contents(streams, "a") == body(content_type, "new", 10)


@pytest.mark.parametrize("content_type", TYPES)
@pytest.mark.parametrize("kind", BLOB_DAMAGES)
async def test_damage_in_the_tables_is_an_error_of_its_own(tmp_path: Path, kind: str, content_type: str) -> None:
    """The response is neither 404 nor wrong bytes, whatever was damaged."""
    expected = await fill(tmp_path / "a.db", content_type, compacts=True)
    damage(tmp_path / "a.db", BLOB_DAMAGES[kind])
    await check_damaged(tmp_path / "a.db", content_type, expected)


@pytest.mark.parametrize("checked", [True, False], ids=["", "without-check-sums"])
@pytest.mark.parametrize("kind", LENGTHS_DAMAGES)
async def test_damaged_lengths_are_seen(tmp_path: Path, kind: str, checked: bool) -> None:
    """They do not fit the bytes. This is found in rows without a checksum, too."""
    expected = await fill(tmp_path / "a.db", JSON, compacts=True)
    if not checked:
        damage(tmp_path / "a.db", "UPDATE blobs SET crc = NULL")
    damage(tmp_path / "a.db", LENGTHS_DAMAGES[kind])
    await check_damaged(tmp_path / "a.db", JSON, expected)


@pytest.mark.parametrize("content_type", TYPES)
@pytest.mark.parametrize("kind", ["flip", "cut", "last", "all"])
async def test_damaged_parts_of_the_journal_are_seen_at_the_start(
    tmp_path: Path, kind: str, content_type: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The rest of them is moved aside and logged. The stream is marked as damaged before anything reads it."""
    path = tmp_path / "a.db"
    expected = await fill(path, content_type, compacts=False)
    first = "staged = (SELECT min(staged) FROM parts)"
    statements = {
        "flip": f"UPDATE parts SET data = {FLIPPED.format('data')} WHERE {first} AND part = 1",
        "cut": f"UPDATE parts SET data = {CUT.format('data')} WHERE {first} AND part = 2",
        "last": f"DELETE FROM parts WHERE {first} AND part = 2",
        "all": f"DELETE FROM parts WHERE {first}",
    }
    parts = count(path, "parts")
    damage(path, statements[kind])
    with caplog.at_level(logging.ERROR):
        async with opened(path) as (streams, _):
            with pytest.raises(StreamDamaged):
                await streams.append("a", append(content_type, "more", 10))
    assert "stream a (" in caplog.text
    gone = {"flip": 0, "cut": 0, "last": 1, "all": 3}[kind]
    assert count(path, "orphans") == 3 - gone
    assert count(path, "orphans") + count(path, "parts") == parts - gone
    await check_damaged(path, content_type, expected)


@pytest.mark.parametrize("kind", JOURNAL_DAMAGES)
async def test_a_damaged_journal_ends_the_start(tmp_path: Path, kind: str) -> None:
    """The error names the damaged or missing row and what to do. Nothing is changed."""
    path = tmp_path / "a.db"
    await fill(path, BINARY, compacts=False)
    damage(path, JOURNAL_DAMAGES[kind])
    before = {table: count(path, table) for table in ("journal", "parts", "blobs", "orphans")}
    for _ in range(2):
        with pytest.raises(StartError, match=r"journal of the database .*row \d+ .*durable-chat doctor"):
            await SqliteBackend(str(path)).open()
    assert {table: count(path, table) for table in before} == before


async def test_a_lost_blob_is_taken_from_the_journal_while_that_has_it(tmp_path: Path) -> None:
    """What is stored is decided by the blobs, not by the stream's row."""
    path = tmp_path / "a.db"
    expected = await fill(path, BINARY, compacts=False)
    async with opened(path) as (_, backend):
        backend._writer.forget = lambda *_: False  # type: ignore[method-assign] # noqa: SLF001 - as a crash cuts it off
        await backend.compact()
    damage(path, f"DELETE FROM blobs WHERE {OF_A} AND {LAST_A}")
    async with opened(path) as (streams, backend):
        assert await contents(streams, "a") == expected["a"]
        await backend.compact()
        assert await contents(streams, "a") == expected["a"]


async def test_what_is_not_understood_is_moved_aside_and_never_deleted(tmp_path: Path) -> None:
    """
    Parts without a reference belong to an interrupted append, and are deleted while every stream is intact. If anything
    is missing, they are kept, because they may belong there.
    """
    path = tmp_path / "a.db"
    await fill(path, BINARY, compacts=True)
    parts = count(path, "parts")
    stray = "INSERT INTO parts (staged, part, data) VALUES (99, 0, x'07')"
    damage(path, stray)
    async with opened(path):
        pass
    assert (count(path, "parts"), count(path, "orphans")) == (parts, 0)
    damage(path, stray)
    damage(path, BLOB_DAMAGES["the staged blob is gone"])
    for _ in range(2):
        async with opened(path):
            pass
        assert (count(path, "parts"), count(path, "orphans")) == (parts - 3, 4)
    async with opened(path) as (streams, _):  # and the numbers of what lies there are not used again
        await streams.create("c", Create(BINARY, payload=parse_payload(BINARY, body(BINARY, "c", LARGE_BYTES))))
        assert await contents(streams, "c") == body(BINARY, "c", LARGE_BYTES)
    assert count(path, "orphans") == 4


@pytest.mark.parametrize("gone", ["journal", "blobs"])
async def test_damage_found_by_a_compaction_stays_to_be_seen(tmp_path: Path, gone: str) -> None:
    """A damaged blob is not extended, because a new checksum would hide the damage."""
    path = tmp_path / "a.db"
    async with opened(path) as (streams, backend):
        await streams.create("a", Create(BINARY, payload=parse_payload(BINARY, b"0123456789" * 5)))
        await backend.compact()
        await streams.append("a", append(BINARY, "more", 40))
        damage(path, f"UPDATE blobs SET data = {FLIPPED.format('data')}")
        await backend.compact()
        data, error = await prefix(streams, "a")
        assert (data, type(error)) == (b"", StreamDamaged)
    assert count(path, "blobs") == 2


async def test_damage_is_503_over_http_and_other_streams_are_served(serve: Serve) -> None:
    """
    The protocol routes and `/api` return a code for programs and a sentence for people. The server starts and is ready.
    """
    server = serve()
    async with httpx.AsyncClient(timeout=30) as client:
        turn = {"messages": [{"id": "m", "role": "user", "parts": [{"type": "text", "content": "hi"}]}]}
        for session in ("one", "two"):
            posted = await client.post(f"{server.url}/api/chat", params={"id": session}, json=turn)
            assert posted.is_success, posted.text
        database = next(Path(server.folder).glob("*.db"))
        for session in ("one", "two"):
            await ended(client, server.url, session)
        while count(database, "blobs") < 2 or count(database, "journal"):
            await client.get(f"{server.url}/healthz")
        server.terminate()
        one = "SELECT id FROM streams WHERE path = 'chat-one'"
        damage(database, f"UPDATE blobs SET data = {FLIPPED.format('data')} WHERE stream_id = ({one})")
        damage(database, "DELETE FROM records WHERE kind LIKE '%snapshot%'") if count_snapshots(database) else None
        server.start()
        assert (await client.get(f"{server.url}/readyz")).status_code == 200
        asked = {
            "stream": f"{server.url}/v1/stream/chat-one?offset=-1",
            "live": f"{server.url}/v1/stream/chat-one?offset=-1&live=sse",
            "snapshot": f"{server.url}/api/chat-snapshot?id=one",
            "chat": f"{server.url}/api/chat-stream?id=one&offset=-1",
            "chat live": f"{server.url}/api/chat-stream?id=one&offset=-1&live=sse",
        }
        for name, url in asked.items():
            answer = await client.get(url)
            assert (name, answer.status_code) == (name, 503), answer.text
            assert answer.json()["code"] == "stream_damaged"
            assert "durable-chat doctor" in answer.json()["error"]
        assert (await client.head(asked["stream"])).status_code == 503
        other = await client.get(f"{server.url}/api/chat-snapshot?id=two")
        assert other.status_code == 200 and len(other.json()["messages"]) == 2


async def ended(client: httpx.AsyncClient, url: str, session: str) -> None:
    while "RUN_FINISHED" not in (await client.get(f"{url}/v1/stream/chat-{session}?offset=-1")).text:
        pass


def count_snapshots(path: Path) -> int:
    connection = sqlite3.connect(path)
    rows: int = connection.execute("SELECT count(*) FROM records WHERE kind LIKE '%snapshot%'").fetchone()[0]
    connection.close()
    return rows


def copied(path: Path, to: Path) -> Path:
    to.mkdir()
    for file in path.parent.glob(path.name + "*"):
        shutil.copy(file, to)
    return to / path.name
