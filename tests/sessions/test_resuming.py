"""What else may happen while an answer goes on after a crash: stops, further turns, repetitions, reloads, more crashes."""

from __future__ import annotations

import http.client
import json
import threading
from typing import Any

import pytest

from tests.servers import Process
from tests.sessions.test_recovery import ask, check_readers, read_log, say, until
from tests.sessions.test_resuming_steps import CONTINUE, RETRY, WHOLE, Stepping, die, finish, resumed, stepping, text_of
from tests.transcripts.logs import Chunks, check_runs, fold, kinds

__all__ = ["stepping"]

SLOW = {"TEXT_DELAY_S": "30"}
"""An answer that stops at its first words for longer than any test."""


def goes_on(chunks: Chunks) -> bool:
    return bool(resumed(chunks))


def ended(count: int) -> Any:
    return lambda chunks: sum(kind in ("RUN_FINISHED", "RUN_ERROR") for kind in kinds(chunks)) == count


def resume_slowly(stepping: Stepping, **settings: str) -> Process:
    """Return a process in which the answer goes on and does not come to its end."""
    die(stepping, "look order", DIE_AT="saw thing0")
    process = stepping.start(**SLOW, **settings)
    until(process, "s", goes_on)
    return process


def test_a_resumed_answer_can_be_stopped(stepping: Stepping) -> None:
    """The run ends as stopped, with what it had said."""
    process = resume_slowly(stepping)
    assert ask(process, "POST", "/api/chat-stop?id=s")[0] == 200
    chunks = read_log(process, "s")
    (end,) = check_runs(chunks)
    assert end["metadata"]["tanstack"]["stopped"] is True
    check_readers(process, "s", chunks)


def test_further_turns_wait_for_a_resumed_answer(stepping: Stepping) -> None:
    """A turn that is sent meanwhile is acknowledged, and answered after the resumed one, even if that dies again."""
    process = resume_slowly(stepping)
    assert say(process, "s", "text", "u2") == 202
    assert not ended(1)(read_log(process, "s"))
    process.kill()
    process = stepping.start(**CONTINUE)
    chunks = until(process, "s", ended(2))
    assert [end["type"] for end in check_runs(chunks)] == ["RUN_FINISHED"] * 2
    assert say(process, "s", "three", "u3", query="&mode=await") == 200
    check_readers(process, "s", read_log(process, "s"))


def test_a_turn_waits_and_is_answered(stepping: Stepping) -> None:
    """The queue goes on behind a resumed answer."""
    die(stepping, "look order", DIE_AT="saw thing0")
    process = stepping.start(TEXT_DELAY_S="0.3")
    until(process, "s", goes_on)
    assert say(process, "s", "text", "u2", query="&mode=await") == 200
    chunks = read_log(process, "s")
    assert [end["type"] for end in check_runs(chunks)] == ["RUN_FINISHED"] * 2
    check_readers(process, "s", chunks)


def test_a_repeated_request_joins_the_resumed_answer(stepping: Stepping) -> None:
    """The sender who retries with its key after the crash waits for the same run, and nothing is answered twice."""
    process = stepping.start(DIE_AT="saw thing0")
    body = {"messages": [{"id": "u1", "role": "user", "parts": [{"type": "text", "content": "look order"}]}]}
    sent = (json.dumps(body), {"Content-Type": "application/json", "Idempotency-Key": "k"})
    with pytest.raises((OSError, http.client.HTTPException)):
        post(process, *sent)
    assert process.wait() == -9
    process = stepping.start(TEXT_DELAY_S="0.2")
    assert post(process, *sent) == 200
    chunks = read_log(process, "s")
    (end,) = check_runs(chunks)
    assert end["type"] == "RUN_FINISHED"
    assert post(process, *sent) == 200
    assert read_log(process, "s") == chunks


def post(process: Process, body: str, headers: dict[str, str]) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", process.port, timeout=20)
    try:
        connection.request("POST", "/api/chat?id=s&mode=await", body, headers)
        return connection.getresponse().status
    finally:
        connection.close()


def test_a_reload_in_the_middle_shows_the_whole_answer(stepping: Stepping) -> None:
    """The snapshot ends before the run, also where it was read before; a reader from there has what others have."""
    process = resume_slowly(stepping)
    snapshot = json.loads(ask(process, "GET", "/api/chat-snapshot?id=s")[1])
    (started,) = [chunk for chunk in read_log(process, "s") if chunk["type"] == "RUN_STARTED"]
    assert snapshot["activeRun"] == {"runId": started["runId"]}
    assert [message["role"] for message in snapshot["messages"]] == ["user"]
    rest = json.loads(ask(process, "GET", f"/api/chat-stream?id=s&offset={snapshot['offset']}")[1])
    assert rest[0] == started and goes_on(rest)


def test_it_goes_on_after_another_crash(stepping: Stepping) -> None:
    """A resumed answer that is killed goes on again, counts its attempts, and finished calls stay finished."""
    die(stepping, "look order", DIE_AT="saw thing0")
    process = stepping.launch(DIE_AT="ordered thing1")
    assert process.wait() == -9
    _, chunks = finish(stepping)
    check_runs(chunks)
    assert [each["attempt"] for each in resumed(chunks)] == [1, 2]
    assert text_of(chunks) == WHOLE
    assert [call.split()[0] for call in stepping.calls] == ["look", "order"]


@pytest.mark.parametrize("mode", [CONTINUE, RETRY], ids=["continue", "retry"])
def test_text_is_complete_after_two_crashes(stepping: Stepping, mode: dict[str, str]) -> None:
    """Nothing is lost or doubled, although the second process also died amid the text."""
    die(stepping, "look text", DIE_AT="word0 ")
    process = stepping.launch(DIE_AT="word1 ", **mode)
    assert process.wait() == -9
    _, chunks = finish(stepping, **mode)
    check_runs(chunks)
    assert [each["attempt"] for each in resumed(chunks)] == [1, 2]
    assert text_of(chunks) == "Step 0. Step 1. word0 word1 word2 "


def test_an_answer_is_taken_up_a_limited_number_of_times(stepping: Stepping) -> None:
    """The answer may be what crashes the server. After the limit it ends as interrupted, with its text."""
    die(stepping, "look order", DIE_AT="saw thing0")
    for _ in range(2):
        process = stepping.launch(DIE_AT="run-resumed")
        assert process.wait() == -9
    _, chunks = finish(stepping, DURABLE_CHAT_RESUMES_MAX="2")
    (end,) = check_runs(chunks)
    assert (end["code"], len(resumed(chunks))) == ("interrupted", 2)


def test_resuming_can_be_turned_off(stepping: Stepping) -> None:
    """With a limit of 0, every answer ends."""
    die(stepping, "look order", DIE_AT="saw thing0")
    _, chunks = finish(stepping, DURABLE_CHAT_RESUMES_MAX="0")
    (end,) = check_runs(chunks)
    assert end["code"] == "interrupted" and not resumed(chunks)


def test_a_shutdown_interrupts_a_resumed_answer(stepping: Stepping) -> None:
    """A graceful shutdown is no crash: the answer gets its end, and stays ended."""
    process = resume_slowly(stepping, DURABLE_CHAT_GRACE_S="0")
    process.terminate()
    _, chunks = finish(stepping)
    (end,) = check_runs(chunks)
    assert end["code"] == "interrupted"


def test_a_resumed_answer_can_be_edited_and_regenerated(stepping: Stepping) -> None:
    """Its message is an ordinary one afterwards."""
    die(stepping, "look order", DIE_AT="saw thing0")
    process, _ = finish(stepping)
    assert say(process, "s", "look order", query="&mode=await") == 200
    assert say(process, "s", "text", query="&mode=await") == 200
    chunks = read_log(process, "s")
    assert [end["type"] for end in check_runs(chunks)] == ["RUN_FINISHED"] * 3
    check_readers(process, "s", chunks)
    assert [message["role"] for message in fold(chunks)] == ["user", "assistant"]


def test_a_turn_with_the_users_own_key_ends(stepping: Stepping) -> None:
    """The key is not stored, so nobody can go on with the answer, and it is in no file."""
    process = stepping.start(DIE_AT="saw thing0")
    body = {"messages": [{"id": "u1", "role": "user", "parts": [{"type": "text", "content": "look order"}]}]}
    headers = {"Content-Type": "application/json", "X-Api-Key": "sk-secret-of-the-user"}
    with pytest.raises((OSError, http.client.HTTPException)):
        post(process, json.dumps(body), headers)
    assert process.wait() == -9
    held = b"".join(file.read_bytes() for file in stepping.folder.iterdir() if file.is_file())
    assert b"sk-secret-of-the-user" not in held
    _, chunks = finish(stepping)
    (end,) = check_runs(chunks)
    assert end["code"] == "interrupted"


def test_an_approved_call_under_way_is_not_repeated(stepping: Stepping) -> None:
    """A call that a person approved ends as interrupted when the process dies in it, and the model is asked again."""
    process = stepping.start(DIE_IN="pay")
    assert say(process, "s", "pay", query="&mode=await") == 200
    snapshot = json.loads(ask(process, "GET", "/api/chat-snapshot?id=s")[1])
    messages = snapshot["messages"]
    (call,) = [part for part in messages[-1]["parts"] if part["type"] == "tool-call"]
    call["state"] = "approval-responded"
    call["approval"] = {**call["approval"], "approved": True}
    sent = threading.Thread(target=lambda: _quietly(process, {"messages": messages}))
    sent.start()
    assert process.wait() == -9
    sent.join()
    process = stepping.start()
    chunks = until(process, "s", ended(2))
    assert [kind for kind in kinds(chunks) if kind.startswith("RUN_")] == ["RUN_STARTED", "RUN_FINISHED"] * 2
    assert [call.split()[0] for call in stepping.calls] == ["pay"]
    results = [chunk for chunk in chunks if chunk["type"] == "TOOL_CALL_RESULT"]
    assert [result.get("state") for result in results] == ["output-error"]
    check_readers(process, "s", chunks)


def _quietly(process: Process, body: object) -> None:
    try:
        ask(process, "POST", "/api/chat?id=s&mode=await", body)
    except (OSError, http.client.HTTPException):
        return
