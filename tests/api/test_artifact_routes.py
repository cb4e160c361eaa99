"""Files over HTTP: posted, stored outside the log, read back, refused, edited, queued, deleted."""

from __future__ import annotations

import base64
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from durable_chat import DurableChat
from durable_chat.errors import NotFound
from durable_chat.http.tokens import issue
from durable_chat.protocol.messages import JSON
from durable_chat.protocol.requests import Create
from durable_chat.sessions.artifacts import artifact_name
from durable_chat.sessions.sessions import session_path
from durable_chat.transcripts.attachments import hash_of
from tests.sessions.serving import Chat, ended, listening, script, serve_chat, texts, user

BIG = bytes(range(256)) * 4 * 5 * 1024  # 5 MiB
SMALL_LOG_BYTES = 20_000
SECRET = "a-secret-of-the-tests-long-enough"


def file(data: bytes = BIG, media_type: str = "image/png", kind: str = "image") -> dict[str, Any]:
    return {
        "type": kind,
        "source": {"type": "data", "value": base64.b64encode(data).decode(), "mimeType": media_type},
    }


def asking(*files: dict[str, Any], text: str = "look", message_id: str = "u1") -> dict[str, Any]:
    return {"id": message_id, "role": "user", "parts": [{"type": "text", "content": text}, *files]}


def address(part: dict[str, Any]) -> str:
    assert part["source"]["type"] == "url", part
    return str(part["source"]["value"])


async def posted(chat: Chat, *files: dict[str, Any], session_id: str = "s") -> str:
    """Send a message with files, wait for the answer, and return the address of the first file."""
    answer = await chat.post(session_id, asking(*files), mode="await")
    assert answer.status_code == 200, answer.text
    parts = (await chat.snapshot(session_id))["messages"][0]["parts"]
    return address(parts[1])


async def read(chat: Chat, path: str, **headers: str) -> httpx.Response:
    return await chat.client.get(path, headers={name.replace("_", "-"): value for name, value in headers.items()})


async def test_a_large_image(any_store_url: str) -> None:
    """
    The model gets the bytes of a large image. Every read of the session gives the same short parts, and the file's
    address gives the bytes to callers who may read the session.
    """
    model = script()
    async with serve_chat(model, url=any_store_url) as chat:
        path = await posted(chat, file())
        assert path == f"/api/chat-artifact?id=s&artifact={hash_of(BIG)}"
        (turn,) = model.turns
        given = turn.messages[0]["parts"][1]
        assert given == {"type": "image", "source": {"type": "url", "value": path, "mimeType": "image/png"}}
        assert await turn.artifact(given) == BIG
        answer = await read(chat, path)
        assert (answer.status_code, answer.content) == (200, BIG)
        assert answer.headers["content-type"] == "image/png"
        raw = await chat.client.get("/api/chat-stream", params={"id": "s", "offset": "-1", "live": "long-poll"})
        caught_up = await chat.client.get("/api/chat-stream", params={"id": "s", "offset": "-1"})
        snapshot = await chat.client.get("/api/chat-snapshot", params={"id": "s"})
        for read_whole in (raw, caught_up, snapshot):
            assert len(read_whole.content) < SMALL_LOG_BYTES
        shown = [raw.json()[0]["messages"], caught_up.json()[0]["messages"][:1], snapshot.json()["messages"][:1]]
        assert shown[0] == shown[1] == shown[2]
        with chat.runs.sessions.hold("s") as session:
            assert session.folded_bytes < SMALL_LOG_BYTES  # enough turns for a stored snapshot


async def test_headers_and_conditions() -> None:
    """
    A file is revalidated on each use, sent again only when needed, and its headers keep a browser from running it.
    """
    async with serve_chat(script()) as chat:
        path = await posted(chat, file())
        answer = await read(chat, path)
        etag = answer.headers["etag"]
        assert etag == f'"{hash_of(BIG)}"'
        assert answer.headers["cache-control"] == "private, no-cache"
        assert answer.headers["vary"] == "Authorization, Cookie, Origin"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["content-security-policy"] == "sandbox; default-src 'none'"
        assert answer.headers["accept-ranges"] == "bytes"
        assert "content-disposition" not in answer.headers
        head = await chat.client.head(path, headers={"Range": "bytes=0-1"})
        assert (head.status_code, head.content) == (200, b"")
        for name in ("content-length", "content-type", "etag", "accept-ranges"):
            assert head.headers[name] == answer.headers[name]
        for known in (etag, f"W/{etag}", f'"x", {etag}', "*"):
            unchanged = await read(chat, path, If_None_Match=known, Range="bytes=0-1")
            assert (unchanged.status_code, unchanged.content) == (304, b"")
            assert unchanged.headers["etag"] == etag
        assert (await read(chat, path, If_None_Match='"x"')).status_code == 200


async def test_ranges(any_store_url: str) -> None:
    """
    A request for one range gets that range, one for several gets the whole file. If-Range applies only to the same
    file.
    """
    async with serve_chat(script(), url=any_store_url) as chat:
        path = await posted(chat, file(media_type="video/mp4", kind="video"))
        size, etag = len(BIG), f'"{hash_of(BIG)}"'
        for asked, start, stop in (
            ("bytes=0-0", 0, 1),
            ("bytes=1000000-3000000", 1_000_000, 3_000_001),
            (f"bytes={size - 5}-", size - 5, size),
            ("bytes=-7", size - 7, size),
        ):
            conditions: list[dict[str, str]] = [{}, {"If_Range": etag}]
            for condition in conditions:
                answer = await read(chat, path, Range=asked, **condition)
                assert (answer.status_code, answer.content) == (206, BIG[start:stop])
                assert answer.headers["content-range"] == f"bytes {start}-{stop - 1}/{size}"
                assert answer.headers["content-length"] == str(stop - start)
        passed_over: list[dict[str, str]] = [
            {"Range": "bytes=0-1,5-6"},
            {"Range": "lines=1-2"},
            {"Range": "bytes=0-1", "If_Range": '"other"'},
            {"Range": "bytes=0-1", "If_Range": f"W/{etag}"},
            {"Range": "bytes=0-1", "If_Range": "Sat, 21 Nov 2026 10:00:00 GMT"},
        ]
        for headers in passed_over:
            answer = await read(chat, path, **headers)
            assert (answer.status_code, answer.content) == (200, BIG)
        refused = await read(chat, path, Range=f"bytes={size}-")
        assert (refused.status_code, refused.json()["code"]) == (416, "bad_range")
        assert refused.headers["content-range"] == f"bytes */{size}"


@pytest.mark.parametrize(
    ("media_type", "shown_type", "name"),
    [
        ("image/svg+xml", "application/octet-stream", ".bin"),
        ("text/html", "application/octet-stream", ".bin"),
        ("application/xhtml+xml", "application/octet-stream", ".bin"),
        ("application/json", "application/octet-stream", ".bin"),
        ("application/pdf", "application/pdf", ".pdf"),
        ("text/plain", "text/plain", ".txt"),
    ],
)
async def test_what_could_run_is_only_saved(media_type: str, shown_type: str, name: str) -> None:
    """A posted page or program is a download, with a type that browsers do not open."""
    async with serve_chat(script()) as chat:
        path = await posted(chat, file(media_type=media_type, kind="document"))
        answer = await read(chat, path)
        assert (answer.status_code, answer.content) == (200, BIG)
        assert answer.headers["content-type"].split(";")[0] == shown_type
        assert answer.headers["content-disposition"] == f'attachment; filename="{hash_of(BIG)[:12]}{name}"'


@pytest.mark.parametrize(
    ("media_type", "sent"),
    [
        ("application/pdf", "attachment; filename=\"K_se.pdf\"; filename*=UTF-8''K%C3%A4se.pdf"),
        ("image/png", "inline; filename=\"K_se.pdf\"; filename*=UTF-8''K%C3%A4se.pdf"),
    ],
)
async def test_a_name_is_sent(media_type: str, sent: str) -> None:
    """A file posted with a name has the name on its route, whether it is shown or saved."""
    async with serve_chat(script()) as chat:
        named = file(media_type=media_type, kind="document") | {"metadata": {"filename": "dir/K\u00e4se.pdf"}}
        answer = await read(chat, await posted(chat, named))
        assert (answer.status_code, answer.content) == (200, BIG)
        assert answer.headers["content-disposition"] == sent


@pytest.mark.parametrize(
    ("part", "status", "code"),
    [
        (file() | {"source": {"type": "data", "value": "no base64!", "mimeType": "image/png"}}, 400, "bad_data"),
        (file(media_type="image"), 400, "bad_media_type"),
        (file(media_type="image/png\r\nX-A: b"), 400, "bad_media_type"),
        (file(b"x" * 200_001), 413, "artifact_too_large"),
    ],
)
async def test_refused_and_nothing_written(part: dict[str, Any], status: int, code: str) -> None:
    """An invalid file is refused and nothing is written, also behind a valid file or in a history to import."""
    good = file(b"y" * 200_000)
    model = script()
    async with serve_chat(model, artifact_max_bytes=200_000) as chat:
        bad = asking(good, part)
        later = [asking(good, message_id="u0"), bad, {"id": "a", "role": "assistant", "parts": []}, user("hi", "u2")]
        for messages in ([bad], later):
            answer = await chat.post("s", *messages)
            assert (answer.status_code, answer.json()["code"]) == (status, code)
        assert await chat.chunks("s") == []
        for data in (b"y" * 200_000, b"x" * 200_001):
            with pytest.raises(NotFound):
                await chat.store.log.head(artifact_name(session_path("s"), hash_of(data)))
    assert model.turns == []


async def test_a_turn_that_is_not_taken_stores_nothing() -> None:
    """A turn that is refused, because another one runs or the session is closed, stores no file."""
    model = script(go=False)
    async with serve_chat(model, turns="refuse") as chat:
        await chat.post("busy", user("first", "u0"))
        await model.waiting.wait()
        await chat.store.log.create(session_path("closed"), Create(JSON, closed=True))
        for session_id, code in (("busy", "run_active"), ("closed", "session_closed")):
            answer = await chat.post(session_id, asking(file()))
            assert (answer.status_code, answer.json()["code"]) == (409, code)
            with pytest.raises(NotFound):
                await chat.store.log.head(artifact_name(session_path(session_id), hash_of(BIG)))
        model.go.set()
        await chat.until("busy", ended())


async def test_not_there() -> None:
    """An unknown file, another session's file and an invalid id get 404. A request without a session gets 400."""
    async with serve_chat(script()) as chat:
        path = await posted(chat, file())
        await chat.post("other", user("hi"), mode="await")
        wrong = [path.replace("id=s", "id=other"), path.replace("id=s", "id=nobody"), path + "0", path[:-1] + "x"]
        for other in (*wrong, "/api/chat-artifact?id=s", f"/api/chat-artifact?id=s&artifact={'0' * 64}"):
            answer = await read(chat, other)
            assert (answer.status_code, answer.json()["code"]) == (404, "no_artifact")
        assert (await read(chat, path.replace("id=s&", ""))).json()["code"] == "bad_id"


async def test_another_sessions_file_is_not_reached_through_the_log() -> None:
    """A chunk in the log that names another session's file does not give the model or readers that file."""
    model = script()
    async with serve_chat(model) as chat:
        path = await posted(chat, file())
        foreign = {"type": "image", "source": {"type": "url", "value": path, "mimeType": "image/png"}}
        renamed = {"type": "image", "source": {"type": "url", "value": path.replace("id=s", "id=t")}}
        await chat.post("t", asking(foreign, renamed), mode="await")
        parts = model.turns[-1].messages[0]["parts"]
        assert parts[1:] == [foreign, renamed]
        assert await model.turns[-1].artifact(parts[1]) is None
        assert await model.turns[-1].artifact(parts[2]) is None
        assert (await read(chat, path.replace("id=s", "id=t"))).status_code == 404


async def test_regenerate_and_edit() -> None:
    """
    A history may contain the file's data or its address: the same file is no edit and is stored once; another file is
    an edit.
    """
    model = script()
    async with serve_chat(model) as chat:
        path = await posted(chat, file())
        given = (await chat.snapshot("s"))["messages"][0]
        for message in (asking(file()), {**asking(), "parts": given["parts"]}):
            await chat.post("s", message, mode="await")
            after = await chat.snapshot("s")
            assert after["messages"][0] == given
            assert texts(after) == [("user", "look"), ("assistant", "Hello.")]
        other = BIG[::-1]
        await chat.post("s", asking(file(other)), mode="await")
        (edited, _) = (await chat.snapshot("s"))["messages"]
        assert address(edited["parts"][1]).endswith(hash_of(other))
        assert await model.turns[-1].artifact(edited["parts"][1]) == other
        assert (await read(chat, path)).content == BIG  # pages that still show the old message can read its file
        kept = {**asking(text="closer"), "parts": [{"type": "text", "content": "closer"}, edited["parts"][1]]}
        await chat.post("s", kept, mode="await")
        assert (await chat.snapshot("s"))["messages"][0]["parts"] == kept["parts"]
        assert await model.turns[-1].artifact(kept["parts"][1]) == other
        assert len(model.turns) == 5


async def test_further_turns_with_the_whole_history(any_store_url: str) -> None:
    """The data of older messages in a posted history is ignored, and the model still gets the file."""
    model = script()
    async with serve_chat(model, url=any_store_url) as chat:
        await posted(chat, file())
        answer = {"id": "a1", "role": "assistant", "parts": [{"type": "text", "content": "Hello."}]}
        await chat.post("s", asking(file()), answer, user("and now?", "u2"), mode="await")
        shown = await chat.snapshot("s")
        assert [message["role"] for message in shown["messages"]] == ["user", "assistant", "user", "assistant"]
        assert await model.turns[-1].artifact(shown["messages"][0]["parts"][1]) == BIG


async def test_an_import(any_store_url: str) -> None:
    """The files of an imported history become artifacts, once each, also under an AG-UI message's `content`."""
    model = script()
    async with serve_chat(model, url=any_store_url) as chat:
        wire = {"id": "u0", "role": "user", "content": [{"type": "text", "text": "one"}, file()]}
        answer = {"id": "a0", "role": "assistant", "content": "Yes."}
        answered = await chat.post("s", wire, answer, asking(file(BIG[::-1]), file()), mode="await")
        assert answered.status_code == 200, answered.text
        messages = (await chat.snapshot("s"))["messages"]
        assert [message["id"] for message in messages[:3]] == ["u0", "a0", "u1"]
        assert messages[0]["parts"][0] == {"type": "text", "content": "one"}
        assert address(messages[0]["parts"][1]) == address(messages[2]["parts"][2])
        for part, data in ((messages[0]["parts"][1], BIG), (messages[2]["parts"][1], BIG[::-1])):
            assert (await read(chat, address(part))).content == data
            assert await model.turns[0].artifact(part) == data


async def test_a_turn_that_waits() -> None:
    """A waiting turn is acknowledged once its file is durable, and has the file when it runs."""
    model = script(go=False)
    async with serve_chat(model) as chat:
        await chat.post("s", user("first", "u0"))
        await model.waiting.wait()
        assert (await chat.post("s", asking(file()))).status_code == 202
        queued = await chat.until("s", lambda chunks: any(chunk["type"] == "CUSTOM" for chunk in chunks))
        (shown,) = [chunk["value"]["message"] for chunk in queued if chunk["type"] == "CUSTOM"]
        assert (await read(chat, address(shown["parts"][1]))).content == BIG
        assert (await chat.post("s", asking(file()))).status_code == 202  # the same message gives the same run
        model.go.set()
        await chat.until("s", ended(2))
        assert len(model.turns) == 2
        assert await model.turns[1].artifact(model.turns[1].messages[-1]["parts"][1]) == BIG


async def test_deleted_with_the_session(any_store_url: str) -> None:
    """Deleting the session deletes its files from the store too. A new session of the same name has none."""
    async with serve_chat(script(), url=any_store_url) as chat:
        path = await posted(chat, file(), file(BIG[::-1], "application/pdf", "document"))
        assert (await chat.client.delete("/api/chat", params={"id": "s"})).status_code == 204
        for data in (BIG, BIG[::-1]):
            with pytest.raises(NotFound):
                await chat.store.log.head(artifact_name(session_path("s"), hash_of(data)))
        await chat.post("s", user("hi"), mode="await")
        assert (await read(chat, path)).status_code == 404
        assert (await read(chat, path, If_None_Match="*")).status_code == 404
        await chat.client.delete("/api/chat", params={"id": "s"})
        assert await posted(chat, file()) == path
        assert (await read(chat, path)).content == BIG


async def test_guarded_like_the_session() -> None:
    """Another session's token and a token without `read` open no file. A hook is called for every file."""
    asked: list[tuple[str, str]] = []

    def authorize(request: Any, session_id: str, action: str) -> bool:
        asked.append((session_id, action))
        return bool(request.headers.get("x-user") == "ada")

    def headers(*can: Any, session: str = "s") -> dict[str, str]:
        token = issue(SECRET, session, can, now_s=time.time(), ttl_s=60)
        return {"Authorization": f"Bearer {token}", "X-User": "ada"}

    async with serve_chat(script(), token_secret=SECRET, authorize=authorize) as chat:
        body = {"messages": [asking(file())]}
        answer = await chat.client.post("/api/chat?id=s&mode=await", json=body, headers=headers("send"))
        assert answer.status_code == 200, answer.text
        path = f"/api/chat-artifact?id=s&artifact={hash_of(BIG)}"
        asked.clear()
        assert (await chat.client.get(path)).status_code == 401
        for wrong in (headers("send", "stop", "delete"), headers("read", session="t")):
            assert (await chat.client.get(path, headers=wrong)).status_code == 403
        assert asked == []
        assert (await chat.client.get(path, headers=headers("read") | {"X-User": "bob"})).status_code == 403
        assert (await chat.client.get(path, headers=headers("read"))).content == BIG
        assert asked == [("s", "read")] * 2


async def test_where_the_chat_is_mounted(tmp_path: Path) -> None:
    """In a mounted chat, the file's address in the message works from its page."""
    chat = DurableChat(f"sqlite:///{tmp_path}/chat.db", model=script())
    app = Starlette(routes=[Mount("/inner", chat.app)], lifespan=chat.lifespan)
    async with chat.lifespan(app), listening(app) as base_url, httpx.AsyncClient(base_url=base_url) as client:
        query = {"id": "s", "mode": "await"}
        answer = await client.post("/inner/api/chat", params=query, json={"messages": [asking(file())]}, timeout=20)
        assert answer.status_code == 200, answer.text
        snapshot = (await client.get("/inner/api/chat-snapshot?id=s")).json()
        path = address(snapshot["messages"][0]["parts"][1])
        assert path.startswith("/inner/api/chat-artifact?")
        assert (await client.get(path)).content == BIG


async def test_after_a_restart(tmp_path: Path) -> None:
    """Files survive a restart like the log, and a changed setting does not turn a repeated message into an edit."""
    url = f"sqlite:///{tmp_path}/chat.db"
    async with serve_chat(script(), url=url) as chat:
        path = await posted(chat, file(), file(b"z" * 60_000))
    model = script()
    async with serve_chat(model, url=url, artifact_min_bytes=100) as chat:
        assert (await read(chat, path)).content == BIG
        before = (await chat.snapshot("s"))["messages"][0]
        await chat.post("s", asking(file(), file(b"z" * 60_000)), mode="await")
        after = (await chat.snapshot("s"))["messages"]
        assert after[0] == before
        assert await model.turns[0].artifact(after[0]["parts"][2]) == b"z" * 60_000
