"""Turns that waited when their server was killed: they are answered once, in the order in which they were asked."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.servers import Process
from tests.sessions.lives import Lives
from tests.sessions.test_recovery import ask, check_readers, read_log, say
from tests.transcripts.logs import Chunks, check_runs, fold, kinds
from tests.waits import wait_until

WAIT_MAX_S = 60.0
"""How long a fact may take on a busy machine. A test that waits longer has failed."""

RETRY, CONTINUE = {"DURABLE_CHAT_AFTER_CRASH": "retry"}, {"DURABLE_CHAT_AFTER_CRASH": "continue"}
MODES = pytest.mark.parametrize("mode", [RETRY, CONTINUE], ids=["retry", "continue"])


class Gated(Lives):
    """Lives of the application in gated.py."""

    app = "tests.sessions.gated:chat.app"

    def open(self, *names: str) -> None:
        """Let the answers to these messages, or the calls with these names, go on."""
        self.folder.mkdir(exist_ok=True)
        for name in names:
            (self.folder / f"go-{name.replace(' ', '-')}").touch()

    @property
    def asked(self) -> list[list[str]]:
        """The texts of the user's messages each time the model was asked."""
        return [json.loads(line)[0] for line in self.lines("asked.txt")]

    def answered(self, text: str) -> int:
        """How often the model was asked with this message as the last one."""
        return sum(texts[-1] == text for texts in self.asked)


@pytest.fixture
def gated(tmp_path: Path, processes: list[Process]) -> Gated:
    return Gated(tmp_path / "gated", processes)


def wait_for(holds: Callable[[], bool], what: str) -> None:
    wait_until(holds, what, WAIT_MAX_S)


def post(process: Process, text: str, query: str = "", headers: dict[str, str] | None = None, **body: Any) -> int:
    """Send a message whose id is its text."""
    message = {"id": text, "role": "user", "parts": [{"type": "text", "content": text}]}
    connection = http.client.HTTPConnection("127.0.0.1", process.port, timeout=WAIT_MAX_S)
    try:
        sent = json.dumps({"messages": [message], **body})
        connection.request(
            "POST", f"/api/chat?id=s{query}", sent, {"Content-Type": "application/json", **(headers or {})}
        )
        return connection.getresponse().status
    finally:
        connection.close()


def until(process: Process, wanted: Callable[[Chunks], bool]) -> Chunks:
    found: Chunks = []

    def holds() -> bool:
        found[:] = read_log(process, "s")
        return wanted(found)

    wait_for(holds, f"not in the log\n{process.output_shown()}")
    return found


def ended(count: int) -> Callable[[Chunks], bool]:
    return lambda chunks: sum(kind in ("RUN_FINISHED", "RUN_ERROR") for kind in kinds(chunks)) >= count


def resumed(count: int) -> Callable[[Chunks], bool]:
    """Whether an answer went on that often. An attempt counts once it is in the log."""
    return lambda chunks: sum(chunk.get("name") == "durable-chat.run-resumed" for chunk in chunks) >= count


def says(text: str) -> Callable[[Chunks], bool]:
    return lambda chunks: text in "".join(str(chunk.get("delta", "")) for chunk in chunks)


def shown(chunks: Chunks) -> list[tuple[str, str]]:
    return [
        (message["role"], "".join(part["content"] for part in message["parts"] if part["type"] == "text"))
        for message in fold(chunks)
    ]


def dialogue(*texts: str) -> list[tuple[str, str]]:
    return [said for text in texts for said in (("user", text), ("assistant", f"About {text}: done."))]


def wait_behind_one(gated: Gated, *texts: str, **settings: str) -> Process:
    """Return a process in which the answer to "one" is running and the other messages wait."""
    process = gated.start(**settings)
    assert post(process, "one") == 202
    until(process, says("About one: "))
    for text in texts:
        assert post(process, text) == 202
    return process


@MODES
def test_they_are_answered_once_and_in_order(gated: Gated, mode: dict[str, str]) -> None:
    """The answer that was cut off comes first. Each run keeps its id and has one end, and all readers see the same."""
    process = wait_behind_one(gated, "two", "three")
    before = [chunk["value"]["runId"] for chunk in read_log(process, "s") if chunk["type"] == "CUSTOM"]
    process.kill()
    process = gated.start(**mode)
    assert not ended(1)(read_log(process, "s")), "they wait for the answer before them"
    gated.open("one", "two", "three")
    chunks = until(process, ended(3))
    ends = check_runs(chunks)
    assert [end["type"] for end in ends] == ["RUN_FINISHED"] * 3
    assert [end["runId"] for end in ends][1:] == before
    assert shown(chunks) == dialogue("one", "two", "three")
    assert (gated.answered("two"), gated.answered("three")) == (1, 1)
    check_readers(process, "s", chunks)
    process.restart()
    assert read_log(process, "s") == chunks


def test_they_are_answered_behind_an_answer_that_ends(gated: Gated) -> None:
    """An answer that cannot go on, because its sender used their own key, ends as interrupted. The next is answered."""
    process = gated.start()
    assert post(process, "one", headers={"X-Api-Key": "of-the-user"}) == 202
    until(process, says("About one: "))
    assert post(process, "two") == 202
    process.kill()
    gated.open("two")
    process = gated.start(**RETRY)
    chunks = until(process, ended(2))
    assert [end.get("code") for end in check_runs(chunks)] == ["interrupted", None]
    assert shown(chunks) == [("user", "one"), ("assistant", "About one: "), *dialogue("two")]
    check_readers(process, "s", chunks)


def test_one_with_the_users_own_key_ends(gated: Gated) -> None:
    """It ends at its place in the queue, its message is shown, and the key is in no file."""
    process = wait_behind_one(gated)
    assert post(process, "two", headers={"X-Api-Key": "of-the-user"}) == 202
    assert post(process, "three") == 202
    process.kill()
    held = b"".join(file.read_bytes() for file in gated.folder.iterdir() if file.is_file())
    assert b"of-the-user" not in held
    gated.open("one", "two", "three")
    process = gated.start(**RETRY)
    chunks = until(process, ended(3))
    assert [end.get("code") for end in check_runs(chunks)] == [None, "interrupted", None]
    assert shown(chunks) == [*dialogue("one"), ("user", "two"), ("assistant", ""), *dialogue("three")]
    assert gated.answered("two") == 0
    check_readers(process, "s", chunks)


def test_they_end_behind_a_resumed_answer(gated: Gated) -> None:
    """Without `retry` or `continue`, only a model that can resume its answer goes on. Waiting turns end after it."""
    gated.open("step0")
    process = gated.start()
    assert post(process, "step step") == 202
    wait_for(lambda: gated.lines("calls.txt") == ["step0", "step1"], "the second call runs")
    assert post(process, "two") == 202
    process.kill()
    gated.open("step-step", "two")
    process = gated.start()
    chunks = until(process, ended(2))
    assert [end.get("code") for end in check_runs(chunks)] == [None, "interrupted"]
    assert gated.answered("two") == 0
    check_readers(process, "s", chunks)


# What the flush contains in which the first process dies, and how often the model may be asked for the second message.
POINTS = {
    "before it is acknowledged": ("turn-queued", "before", "", "", 0),
    "after it is acknowledged": ("turn-queued", "after", "", "", 1),
    "before the end of the first": ("RUN_FINISHED", "before", "", "", 1),
    "after the end of the first": ("RUN_FINISHED", "after", "", "", 1),
    "before it is shown": ('"content":"About one: done."', "before", "", "", 1),
    "before it is taken up": ("turn-queued", "after", '"epoch":2', "before", 1),
    "after it is taken up": ("turn-queued", "after", '"epoch":2', "after", 1),
    "before it is shown, when taken up": ("turn-queued", "after", '"content":"About one: done."', "before", 1),
    "after it is shown, when taken up": ("turn-queued", "after", '"content":"About one: done."', "after", 1),
    "before its answer is in the log": ("turn-queued", "after", "About two: ", "before", 2),
    "amid its answer": ("turn-queued", "after", "About two: ", "after", 2),
}


@pytest.mark.parametrize("point", POINTS)
def test_killed_at(gated: Gated, point: str) -> None:
    """
    Wherever the processes die, an acknowledged message is shown once and answered to its end, and every run has one end.
    """
    die_at, die, again, die_again, times = POINTS[point]
    process = gated.start(DIE_AT=die_at, DIE=die)
    assert post(process, "one") == 202
    until(process, says("About one: "))
    with suppress(OSError, http.client.HTTPException):
        post(process, "two")
    gated.open("one", "two")
    assert process.wait(WAIT_MAX_S) == -9
    if again:
        process = gated.launch(DIE_AT=again, DIE=die_again, **RETRY)
        assert process.wait(WAIT_MAX_S) == -9
    process = gated.start(**RETRY)
    chunks = until(process, ended(1 if times == 0 else 2))
    assert [end["type"] for end in check_runs(chunks)] == ["RUN_FINISHED"] * (1 if times == 0 else 2)
    assert shown(chunks) == dialogue("one", *(["two"] if times else []))
    assert 0 < gated.answered("two") <= times or times == 0
    check_readers(process, "s", chunks)


def test_the_limit_of_attempts(gated: Gated) -> None:
    """A queue is taken up as often as an answer. After that, what waits ends as interrupted."""
    process = wait_behind_one(gated, "two")
    limit = {"DURABLE_CHAT_RESUMES_MAX": "2"}
    for attempts in (1, 2):
        process.kill()
        process = gated.start(**RETRY, **limit)
        until(process, resumed(attempts))
    process.kill()
    process = gated.start(**RETRY, **limit)
    chunks = until(process, ended(2))
    assert [end["code"] for end in check_runs(chunks)] == ["interrupted"] * 2
    assert gated.answered("two") == 0
    check_readers(process, "s", chunks)


def test_nothing_is_taken_up_with_a_limit_of_0(gated: Gated) -> None:
    process = wait_behind_one(gated, "two")
    process.kill()
    process = gated.start(**RETRY, DURABLE_CHAT_RESUMES_MAX="0")
    chunks = until(process, ended(2))
    assert [end["code"] for end in check_runs(chunks)] == ["interrupted"] * 2


def test_one_that_was_stopped_is_not_answered(gated: Gated) -> None:
    """A stop counts even if the server dies before the turn of what it stopped."""
    process = wait_behind_one(gated, "two", "three")
    (two, _) = [chunk["value"]["runId"] for chunk in read_log(process, "s") if chunk["type"] == "CUSTOM"]
    status, body, _ = ask(process, "POST", f"/api/chat-stop?id=s&runId={two}")
    assert (status, json.loads(body)["stopped"]) == (200, [two])
    process.kill()
    gated.open("one", "two", "three")
    process = gated.start(**RETRY)
    chunks = until(process, ended(3))
    assert [end.get("code") for end in check_runs(chunks)] == [None, "interrupted", None]
    assert gated.answered("two") == 0


def test_what_was_interrupted_is_not_answered(gated: Gated) -> None:
    """Once a message that interrupts is in the log, no answer that it interrupted goes on after a crash."""
    process = wait_behind_one(gated, "two", DIE_AT='"id":"three"')
    with suppress(OSError, http.client.HTTPException):
        post(process, "three", "&turns=interrupt")
    assert process.wait(WAIT_MAX_S) == -9
    gated.open("one", "two", "three")
    process = gated.start(**RETRY)
    check_runs(until(process, ended(3)))
    assert [texts[-1] for texts in gated.asked if texts[-1] != "three"] == ["one"]


def test_a_repeated_request_joins_it(gated: Gated) -> None:
    """The sender who repeats the request with its key waits for the same run. Nothing is answered twice."""
    key = {"Idempotency-Key": "k"}
    process = wait_behind_one(gated)
    assert post(process, "two", headers=key) == 202
    process.kill()
    process = gated.start(**RETRY)
    assert post(process, "two", headers=key) == 202
    assert post(process, "two") == 202
    gated.open("one", "two")
    assert post(process, "two", "&mode=await", headers=key) == 200
    chunks = until(process, ended(2))
    check_runs(chunks)
    assert shown(chunks) == dialogue("one", "two")
    assert gated.answered("two") == 1
    assert post(process, "two", "&mode=await", headers=key) == 200
    assert read_log(process, "s") == chunks


def test_they_can_be_listed_taken_back_and_sent_now(gated: Gated) -> None:
    """In the next process they wait as before."""
    process = wait_behind_one(gated, "two", "three", "four")
    process.kill()
    process = gated.start(**RETRY)
    turns = json.loads(ask(process, "GET", "/api/chat-turns?id=s")[1])["turns"]
    assert [(turn["messageId"], turn["turns"]) for turn in turns] == [
        (text, "queue") for text in ("two", "three", "four")
    ]
    assert ask(process, "DELETE", "/api/chat-turns?id=s&messageId=two")[0] == 200
    assert ask(process, "POST", "/api/chat-turns?id=s&messageId=four")[0] == 200
    gated.open("one", "two", "three", "four")
    chunks = until(process, ended(3))
    check_runs(chunks)
    assert shown(chunks) == dialogue("one", "four", "three")
    check_readers(process, "s", chunks)


def test_the_order_of_a_message_that_was_sent_now_is_kept(gated: Gated) -> None:
    """It is the next one after the crash, too."""
    process = wait_behind_one(gated, "two", "three")
    assert ask(process, "POST", "/api/chat-turns?id=s&messageId=three")[0] == 200
    process.kill()
    gated.open("one", "two", "three")
    process = gated.start(**RETRY)
    chunks = until(process, ended(3))
    check_runs(chunks)
    assert shown(chunks) == dialogue("one", "three", "two")


def test_the_data_of_a_request_is_kept(gated: Gated) -> None:
    """The model gets what the client sent beside its message. It is not in the log."""
    process = wait_behind_one(gated)
    assert post(process, "two", data={"place": "Oslo"}) == 202
    process.kill()
    gated.open("one", "two")
    process = gated.start(**RETRY)
    chunks = until(process, ended(2))
    assert json.loads(gated.lines("asked.txt")[-1]) == [["one", "two"], {"place": "Oslo"}]
    assert "Oslo" not in json.dumps(chunks)


def test_an_edit_that_waited(gated: Gated) -> None:
    """It replaces its message and what follows, as if the server had not died."""
    gated.open("one")
    process = gated.start()
    assert post(process, "one", "&mode=await") == 200
    assert post(process, "two") == 202
    until(process, says("About two: "))
    assert say(process, "s", "uno", "one") == 202
    process.kill()
    gated.open("two", "uno")
    process = gated.start(**RETRY)
    chunks = until(process, ended(3))
    check_runs(chunks)
    assert shown(chunks) == dialogue("uno")
    assert (gated.answered("two"), gated.answered("uno")) == (2, 1)
    check_readers(process, "s", chunks)


def test_an_approval_that_waited(gated: Gated) -> None:
    """What a person approved while another answer ran is carried out after the crash, once."""
    gated.open("one", "pay")
    process = gated.start()
    assert post(process, "pay", "&mode=await") == 200
    messages = json.loads(ask(process, "GET", "/api/chat-snapshot?id=s")[1])["messages"]
    assert post(process, "two") == 202
    until(process, says("About two: "))
    (call,) = [part for part in messages[-1]["parts"] if part["type"] == "tool-call"]
    call["state"] = "approval-responded"
    call["approval"] = {**call["approval"], "approved": True}
    assert ask(process, "POST", "/api/chat?id=s", {"messages": messages})[0] == 202
    process.kill()
    gated.open("two")
    process = gated.start(**RETRY)
    chunks = until(process, ended(3))
    assert [kind for kind in kinds(chunks) if kind.startswith("RUN_")] == ["RUN_STARTED", "RUN_FINISHED"] * 3
    assert gated.lines("calls.txt") == ["pay it"]
    check_readers(process, "s", chunks)
