"""The transcript says how an answer ended, so that later readers get the same as the tabs that watched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from durable_chat.models.base import ProviderError
from durable_chat.sessions.running.posted import to_ui_message
from durable_chat.transcripts.runs.ends import RunEnd, run_end
from durable_chat.transcripts.transcript import Transcript
from tests.sessions.serving import Chat, ended, script, serve_chat, user, waiting
from tests.transcripts.logs import fold

FAILURE = ProviderError("The model is tired.", "tired")
FAILED = {"status": "failed", "error": "The model is tired.", "code": "tired"}


def run_of(message: dict[str, Any]) -> Any:
    return message["metadata"].get("durableChat", {}).get("run")


async def stopped(chat: Chat, model: Any) -> None:
    async with waiting(chat, model) as task:
        await chat.client.post("/api/chat-stop", params={"id": "s"})
        await task


async def read_everywhere(chat: Chat) -> list[dict[str, Any]]:
    """
    Return the messages, which are equal in the snapshot, in a new tab's catch-up and in the fold of the whole log.
    """
    told = (await chat.snapshot("s"))["messages"]
    (caught_up,) = (await chat.client.get("/api/chat-stream", params={"id": "s", "offset": "-1"})).json()
    assert caught_up["messages"] == told
    folded = fold(await chat.chunks("s"))
    assert [{"metadata": {}, **message} for message in folded] == told
    return list(told)


async def test_nothing_has_ended_where_nothing_was_asked() -> None:
    async with serve_chat(script()) as chat:
        assert (await chat.snapshot("s"))["lastRun"] is None


async def test_an_answer_that_is_whole() -> None:
    """The snapshot says that a complete answer finished, and its message has no recorded end."""
    async with serve_chat(script()) as chat:
        run_id = (await chat.post("s", user("hi"), mode="await")).headers["x-run-id"]
        assert (await chat.snapshot("s"))["lastRun"] == {
            "runId": run_id,
            "status": "finished",
            "finishReason": "stop",
        }
        assert [run_of(message) for message in await read_everywhere(chat)] == [None, None]


async def test_an_answer_that_was_cut_by_its_length() -> None:
    """The message of an answer that was cut at its maximum length gives the reason."""
    end = {"type": "RUN_FINISHED", "metadata": {"tanstack": {"finishReason": "length"}}}
    async with serve_chat(script(after=[end])) as chat:
        run_id = (await chat.post("s", user("hi"), mode="await")).headers["x-run-id"]
        told = {"runId": run_id, "status": "finished", "finishReason": "length"}
        assert (await chat.snapshot("s"))["lastRun"] == told
        assert [run_of(message) for message in await read_everywhere(chat)] == [None, told]


async def test_an_answer_that_failed(tmp_path: Path) -> None:
    """
    Every reader gets a failed answer's error and code: at once, after a restart, and after more turns with their own
    ends.
    """
    url = f"sqlite:///{tmp_path / 'chat.db'}"
    async with serve_chat(script(error=FAILURE), url=url) as chat:
        run_id = (await chat.post("s", user("hi"), mode="await")).headers["x-run-id"]
        told = {"runId": run_id, **FAILED}
        assert (await chat.snapshot("s"))["lastRun"] == told
        assert run_of((await read_everywhere(chat))[-1]) == told
    async with serve_chat(script(), url=url, turn_snapshot_max_bytes=64 * 1024) as chat:
        assert (await chat.snapshot("s"))["lastRun"] == told
        assert run_of((await read_everywhere(chat))[-1]) == told
        await chat.post("s", user("again", "u2"), mode="await")
        assert (await chat.snapshot("s"))["lastRun"]["status"] == "finished"
        assert [run_of(message) for message in await read_everywhere(chat)] == [None, told, None, None]
        opening = [chunk for chunk in await chat.chunks("s") if chunk["type"] == "MESSAGES_SNAPSHOT"][-1]
        assert run_of(opening["messages"][1]) == told, "stock clients keep what the snapshot before a turn says"


async def test_an_answer_that_was_stopped() -> None:
    model = script(go=False)
    async with serve_chat(model) as chat:
        await stopped(chat, model)
        last = (await chat.snapshot("s"))["lastRun"]
        assert (last["status"], last["finishReason"]) == ("stopped", "stop")
        assert [run_of(message) for message in await read_everywhere(chat)] == [None, last]


async def test_a_turn_that_was_stopped_while_it_waited() -> None:
    """
    A turn that was stopped while it waited has no answer, so its question records the stop until it is asked again.
    """
    model = script(go=False)
    async with serve_chat(model) as chat:
        async with waiting(chat, model) as first:
            queued = await chat.post("s", user("and?", "u2"))
            await chat.client.post("/api/chat-stop", params={"id": "s", "runId": queued.headers["x-run-id"]})
            model.go.set()
            await first
        await chat.until("s", ended(2))
        question = (await read_everywhere(chat))[-1]
        assert (question["id"], run_of(question)["status"]) == ("u2", "stopped")
        await chat.post("s", user("and?", "u2"), mode="await")
        question, answer = (await read_everywhere(chat))[-2:]
        assert ("durableChat" in question["metadata"], run_of(answer)) == (False, None)


async def test_a_tab_that_is_only_released_changes_nothing() -> None:
    """An empty run that only releases a tab does not mark the failed answer as finished."""
    async with serve_chat(script(error=FAILURE)) as chat:
        await chat.post("s", user("hi"), mode="await")
        before = await chat.snapshot("s")
        part = {"type": "tool-call", "id": "x", "name": "look", "state": "complete", "output": "here"}
        late = {"id": "m", "role": "assistant", "parts": [part]}
        assert (await chat.post("s", late, mode="await")).status_code == 200
        assert (await chat.chunks("s"))[-1]["type"] == "RUN_FINISHED"
        after = await chat.snapshot("s")
        assert (after["lastRun"], after["messages"]) == (before["lastRun"], before["messages"])


async def test_trying_again_replaces_the_failed_answer() -> None:
    """
    A failed answer's question, posted from a reloaded tab with the recorded end, is answered again, and the new
    answer replaces the failed one.
    """
    async with serve_chat(script(error=FAILURE)) as chat:
        await chat.post("s", user("hi"), mode="await")
        question, failed = (await chat.snapshot("s"))["messages"]
        chat.model.error = None  # type: ignore[attr-defined]
        await chat.post("s", question, mode="await")
        messages = await read_everywhere(chat)
        assert [message["role"] for message in messages] == ["user", "assistant"]
        assert messages[1]["id"] != failed["id"]
        assert run_of(messages[1]) is None


def test_the_end_of_another_run_is_not_the_end_of_the_one_that_is_open() -> None:
    """The end of another run, which another writer may append, does not end the open run."""
    log: list[dict[str, Any]] = [
        {"type": "RUN_STARTED", "runId": "r1", "threadId": "s"},
        {"type": "TEXT_MESSAGE_START", "messageId": "a1", "role": "assistant"},
        {"type": "RUN_ERROR", "runId": "r0", "message": "Not this one."},
    ]
    assert last_end(log) is None
    log.append({"type": "RUN_ERROR", "runId": "r1", "message": "x" * 1000})
    end = last_end(log)
    assert end is not None
    assert (end.run_id, len(end.error or "")) == ("r1", 300)
    (message,) = fold(log)
    assert message["metadata"]["durableChat"]["run"] == end.shown()


def last_end(log: list[dict[str, Any]]) -> RunEnd | None:
    transcript = Transcript()
    transcript.fold_all(log)
    return transcript.last_end


@pytest.mark.parametrize(
    ("chunk", "status"),
    [
        ({"type": "RUN_ERROR", "code": "interrupted"}, "interrupted"),
        ({"type": "RUN_ERROR", "code": 5, "message": []}, "failed"),
        ({"type": "RUN_FINISHED", "outcome": {"type": "cancelled"}}, "stopped"),
        ({"type": "RUN_FINISHED", "stopped": 1, "outcome": 5, "metadata": 5}, "finished"),
        ({"type": "RUN_FINISHED", "metadata": {"durableChat": {"released": True}}}, None),
    ],
)
def test_what_an_end_says(chunk: dict[str, Any], status: str | None) -> None:
    """AG-UI's own outcome for a stop counts too, and an invalid value gives no status."""
    end = run_end(chunk)
    assert (None if end is None else end.status) == status


def test_how_an_answer_ended_is_not_a_clients_to_say() -> None:
    posted = {**user("hi"), "metadata": {"durableChat": {"run": {"status": "failed", "error": "Call 555."}}, "mine": 1}}
    assert to_ui_message(posted)["metadata"] == {"mine": 1}
