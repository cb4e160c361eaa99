"""A late answer to a tool call belongs to that call: it is executed or denied where it is, and nothing else changes."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from durable_chat.models.anthropic.messages import to_anthropic, tools_named_in
from durable_chat.models.base import Turn
from durable_chat.sessions.running.posted import Posted
from durable_chat.sessions.running.turns import notice
from durable_chat.transcripts.parts import Part
from durable_chat.transcripts.tool_answers import DENIED_RESULT, Answer
from durable_chat.transcripts.transcript import Transcript
from tests.models.strict import refusals
from tests.sessions.serving import ANSWER_MAX_S, Chat, ended, serve_chat, types, user
from tests.sessions.test_approvals import Calls, asked, parts_of, runs_in, with_output, with_word
from tests.transcripts.logs import fold


async def moved_on(chat: Chat, *texts: str) -> dict[str, Any]:
    """A session in which a call waits for approval and the person writes a new message instead."""
    await asked(chat)
    for at, text in enumerate(texts or ("never mind",)):
        assert (await chat.post("s", user(text, f"n{at}"), mode="await")).status_code == 200
    return await chat.snapshot("s")


def rest_of(snapshot: dict[str, Any]) -> list[Any]:
    """Everything but the answer that asked."""
    return [message for at, message in enumerate(snapshot["messages"]) if at != 1]


def only(messages: list[dict[str, Any]]) -> dict[str, Any]:
    """Only the message that asked, which is all that some clients post."""
    return messages[1]


@pytest.mark.parametrize("whole", [True, False], ids=["the whole history", "the one message"])
@pytest.mark.parametrize("texts", [("never mind",), ("never mind", "and?", "so?")], ids=["one later", "three later"])
@pytest.mark.parametrize("approved", [True, False], ids=["approved", "denied"])
async def test_a_late_word(approved: bool, texts: tuple[str, ...], whole: bool) -> None:
    """The call gets its result, the model is not called again, and the rest of the transcript stays."""
    model = Calls("save")
    async with serve_chat(model.agent()) as chat:
        before = await moved_on(chat, *texts)
        unchanged = rest_of(before)
        posted = with_word(before, "c-save", approved)
        answer = await chat.post("s", *(posted if whole else [only(posted)]), mode="await")
        assert answer.status_code == 200
        after = await chat.snapshot("s")
        assert rest_of(after) == unchanged
        (call,) = parts_of(after, "tool-call")
        assert (call["state"], call["approval"]["approved"]) == ("complete" if approved else "error", approved)
        (result,) = parts_of(after, "tool-result")
        assert result["content"] == ("saved" if approved else DENIED_RESULT)
        assert fold(await chat.chunks("s"))[1]["parts"] == after["messages"][1]["parts"]
        assert (model.saved, len(model.turns)) == (int(approved), 1 + len(texts))

        await chat.post("s", user("what now?", "u9"), mode="await")
    conversation = to_anthropic(model.turns[-1].messages)
    assert refusals({"messages": conversation, "tools": tools_named_in(conversation)}) == []
    block = conversation[2]["content"][0]
    assert (block["type"], block["content"]) == ("tool_result", "saved" if approved else DENIED_RESULT)


async def test_a_late_result_of_a_clients_tool() -> None:
    model = Calls("locate")
    async with serve_chat(model.agent()) as chat:
        before = await moved_on(chat, "never mind", "and?")
        unchanged = rest_of(before)
        await chat.post("s", *with_output(before, "c-locate", "here"), mode="await")
        after = await chat.snapshot("s")
        assert (rest_of(after), parts_of(after, "tool-result")[0]["content"]) == (unchanged, "here")
    assert len(model.turns) == 3


async def test_two_questions_one_of_which_is_answered_late() -> None:
    """One is answered in time, the other after a new message. Each answer stays with its call."""
    model = Calls("save", "locate")
    async with serve_chat(model.agent()) as chat:
        await asked(chat)
        await chat.post("s", *with_word(await chat.snapshot("s"), "c-save", True), mode="await")
        await chat.post("s", user("never mind", "u2"), mode="await")
        before = await chat.snapshot("s")
        await chat.post("s", *with_output(before, "c-locate", "here"), mode="await")
        after = await chat.snapshot("s")
        assert {part["content"] for part in parts_of(after, "tool-result")} == {"saved", "here"}
        assert [message["role"] for message in after["messages"]] == ["user", "assistant", "user", "assistant"]
    assert (model.saved, len(model.turns)) == (1, 2)


async def test_two_late_words_one_after_the_other() -> None:
    model = Calls("save", "pay")
    async with serve_chat(model.agent()) as chat:
        before = await moved_on(chat)
        await chat.post("s", only(with_word(before, "c-save", True)), mode="await")
        await chat.post("s", only(with_word(await chat.snapshot("s"), "c-pay", False)), mode="await")
        states = {call["id"]: call["state"] for call in parts_of(await chat.snapshot("s"), "tool-call")}
        assert states == {"c-save": "complete", "c-pay": "error"}
    assert (model.saved, len(model.turns)) == (1, 2)


async def test_a_late_word_and_a_new_message_in_one_request() -> None:
    """The call is executed, and the new message is answered once, with the result known."""
    model = Calls("save")
    async with serve_chat(model.agent()) as chat:
        before = await moved_on(chat, "never mind", "and?")
        await chat.post("s", *with_word(before, "c-save", True), user("do it", "u9"), mode="await")
        after = await chat.snapshot("s")
        assert [message["role"] for message in after["messages"]] == ["user", "assistant"] * 4
        assert parts_of(after, "tool-call")[0]["output"] == "saved"
    assert (model.saved, len(model.turns)) == (1, 4)
    assert to_anthropic(model.turns[-1].messages)[2]["content"][0]["content"] == "saved"


async def test_a_late_word_after_a_restart_and_from_two_tabs(tmp_path: Path) -> None:
    """The first answer counts, whichever process asked. The other tab is corrected."""
    url = f"sqlite:///{tmp_path / 'chat.db'}"
    async with serve_chat(Calls("save").agent(), url=url) as chat:
        await moved_on(chat)
    model = Calls("save")
    model.turns.append(Turn((), "", ""))
    async with serve_chat(model.agent(), url=url) as chat:
        yes = with_word(await chat.snapshot("s"), "c-save", True)
        no = with_word(await chat.snapshot("s"), "c-save", False)
        for posted in (yes, no, yes):
            assert (await chat.post("s", *posted, mode="await")).status_code == 200
        (call,) = parts_of(await chat.snapshot("s"), "tool-call")
        assert (call["state"], call["approval"]["approved"]) == ("complete", True)
    assert (model.saved, len(model.turns)) == (1, 1)


class Slow(Calls):
    """A model whose later answers wait until `speak` is set."""

    def __init__(self) -> None:
        super().__init__("save")
        self.speak = asyncio.Event()
        self.speaking = asyncio.Event()

    async def __call__(self, turn: Turn) -> Any:
        if self.turns:
            self.speaking.set()
            await self.speak.wait()
        async for item in super().__call__(turn):
            yield item


@pytest.mark.parametrize("turns", ["queue", "refuse", "interrupt"])
async def test_a_late_word_while_the_newest_message_is_answered(turns: str) -> None:
    """
    It waits for its turn, no setting refuses it, and it interrupts nothing, also when its history ends with the message
    that is being answered.
    """
    model = Slow()
    async with serve_chat(model.agent(), turns=turns) as chat:
        posted = with_word(await asked(chat), "c-save", True)
        await chat.post("s", user("and?", "u2"))
        await asyncio.wait_for(model.speaking.wait(), ANSWER_MAX_S)
        late = await chat.post("s", *posted, user("and?", "u2"))
        assert late.status_code == 202
        model.speak.set()
        chunks = await chat.until("s", ended(3))
        assert runs_in(chunks) == 3
        after = await chat.snapshot("s")
        assert parts_of(after, "tool-call")[0]["output"] == "saved"
        assert [message["role"] for message in after["messages"]] == ["user", "assistant", "user", "assistant"]
        assert after["lastRun"]["runId"] == late.headers["x-run-id"]
    assert (model.saved, len(model.turns)) == (1, 2)


async def test_a_word_to_a_call_that_is_gone() -> None:
    """If an edit has dropped the call, the answer changes nothing, and its tab is released."""
    model = Calls("save")
    async with serve_chat(model.agent()) as chat:
        posted = with_word(await moved_on(chat), "c-save", True)
        await chat.post("s", user("something else"), mode="await")
        before = await chat.snapshot("s")
        assert (await chat.post("s", only(posted), mode="await")).status_code == 200
        assert types(await chat.chunks("s"))[-2:] == ["RUN_STARTED", "RUN_FINISHED"]
        assert (await chat.snapshot("s"))["messages"] == before["messages"]
    assert model.saved == 0


async def test_a_stop_while_a_late_call_is_carried_out() -> None:
    """The call gets an error as its result. The answer since then is not stopped."""
    model = Calls("save")
    async with serve_chat(model.agent()) as chat:
        before = await moved_on(chat)
        model.go.clear()
        await chat.post("s", only(with_word(before, "c-save", True)))
        await asyncio.wait_for(model.saving.wait(), ANSWER_MAX_S)
        await chat.client.post("/api/chat-stop", params={"id": "s"})
        after = await chat.snapshot("s")
        assert parts_of(after, "tool-call")[0]["state"] == "error"
        assert after["messages"][-1] == before["messages"][-1]
        assert after["lastRun"]["status"] == "stopped"
    assert (model.saved, len(model.turns)) == (0, 2)


def test_answers_that_the_session_has_are_passed_over_in_a_step_each() -> None:
    """A client posts the results of the whole session each time. Only calls that wait are looked up."""

    class Counting(Transcript):
        looked = 0

        def asked(self, call_id: str) -> tuple[Part, Part | None] | None:
            self.looked += 1
            return super().asked(call_id)

    parts = [
        {"type": "tool-call", "id": f"c{at}", "name": "look", "output": 1, "state": "complete"} for at in range(50)
    ]
    parts.append({"type": "tool-call", "id": "open", "name": "look", "arguments": "{}", "state": "input-complete"})
    transcript = Counting()
    transcript.fold(
        {"type": "MESSAGES_SNAPSHOT", "messages": [user("go"), {"id": "a", "role": "assistant", "parts": parts}]}
    )
    older = (*(Answer(f"c{at}", None, "2") for at in range(50)), Answer("open", None, "here"))
    posted = notice(Posted(user("and?", "u2"), "user", older=older), transcript)
    assert [answer.call_id for answer in posted.answers] == ["open"]
    assert transcript.looked == 1
