"""Models that reuse the id of a tool call: each call keeps its own arguments, approval, result and place."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from durable_chat.models.agents import Agent
from durable_chat.models.anthropic.messages import to_anthropic, tools_named_in
from durable_chat.models.base import Turn
from durable_chat.models.tools import Tools, make_tool
from durable_chat.transcripts.answers.call_names import with_unique_calls
from durable_chat.transcripts.answers.normalization import RunChunks
from tests.models.strict import refusals
from tests.sessions.serving import serve_chat, user
from tests.sessions.test_approvals import parts_of, with_word
from tests.transcripts.logs import fold


class Counting:
    """
    A model that calls its tool `rounds` times before it answers. It numbers its calls from one in every answer, or in
    each round of an approved call. Mutable state: `given`, the turns it received; `noted`, the arguments of its tool.
    """

    def __init__(self, *, rounds: int = 1, needs_approval: bool = False) -> None:
        self.rounds = rounds
        self.given: list[Turn] = []
        self.noted: list[str] = []
        self._tool = make_tool(self.note, needs_approval=needs_approval)

    def note(self, text: str) -> str:
        self.noted.append(text)
        return f"noted {text}"

    async def __call__(self, turn: Turn) -> AsyncIterator[Any]:
        self.given.append(turn)
        asked_at = max(at for at, message in enumerate(turn.messages) if message["role"] == "user")
        since = [part for message in turn.messages[asked_at:] for part in message["parts"]]
        done = sum(part["type"] == "tool-result" for part in since)
        if done >= self.rounds:
            yield "Done."
            return
        text = f"{turn.messages[asked_at]['parts'][0]['content']} {done}"
        yield {"type": "TOOL_CALL_START", "toolCallId": "call_1", "toolCallName": "note"}
        yield {"type": "TOOL_CALL_ARGS", "toolCallId": "call_1", "delta": f'{{"text":"{text}"}}'}
        yield {"type": "TOOL_CALL_END", "toolCallId": "call_1"}
        yield {"type": "RUN_FINISHED", "finishReason": "tool_calls"}

    def agent(self) -> Agent:
        return Agent(self, Tools([self._tool]))


def check_calls(snapshot: dict[str, Any], chunks: list[dict[str, Any]], outputs: list[str]) -> None:
    """Check that every call has its own id and result, in the snapshot and in the fold of a client."""
    calls = parts_of(snapshot, "tool-call")
    assert [call["output"] for call in calls] == outputs
    assert len({call["id"] for call in calls}) == len(outputs)
    results = {part["toolCallId"]: part["content"] for part in parts_of(snapshot, "tool-result")}
    assert [results[call["id"]] for call in calls] == outputs
    assert [message["parts"] for message in fold(chunks)] == [message["parts"] for message in snapshot["messages"]]


def check_given(turns: list[Turn]) -> None:
    """Check that the input of the model is valid for a provider: each call once, with its own result."""
    for turn in turns:
        conversation = to_anthropic(turn.messages)
        assert refusals({"messages": conversation, "tools": tools_named_in(conversation)}) == []
        blocks = [block for message in conversation for block in message["content"]]
        asked = [block for block in blocks if block["type"] == "tool_use"]
        results = {block["tool_use_id"]: block["content"] for block in blocks if block["type"] == "tool_result"}
        assert [results[use["id"]] for use in asked] == [f"noted {use['input']['text']}" for use in asked]


async def test_the_same_id_in_two_turns(tmp_path: Path) -> None:
    """Two turns may reuse a call's id, even if the server restarts between them."""
    url = f"sqlite:///{tmp_path / 'chat.db'}"
    models = [Counting(), Counting()]
    for at, model in enumerate(models):
        async with serve_chat(model.agent(), url=url) as chat:
            assert (await chat.post("s", user(f"q{at}", f"u{at}"), mode="await")).status_code == 200
            snapshot, chunks = await chat.snapshot("s"), await chat.chunks("s")
    check_calls(snapshot, chunks, ["noted q0 0", "noted q1 0"])
    check_given([*models[0].given, *models[1].given])


async def test_the_same_id_in_every_round_of_a_turn() -> None:
    model = Counting(rounds=3)
    async with serve_chat(model.agent()) as chat:
        await chat.post("s", user("q"), mode="await")
        check_calls(await chat.snapshot("s"), await chat.chunks("s"), ["noted q 0", "noted q 1", "noted q 2"])
    check_given(model.given)
    assert len(model.given) == 4


async def test_each_approval_is_asked_and_answered_by_itself() -> None:
    """A client finds a call by the id of its approval, so that id is unique too."""
    model = Counting(needs_approval=True)
    async with serve_chat(model.agent()) as chat:
        for at in range(3):
            await chat.post("s", user(f"q{at}", f"u{at}"), mode="await")
            snapshot = await chat.snapshot("s")
            call = parts_of(snapshot, "tool-call")[-1]
            assert call["state"] == "approval-requested"
            await chat.post("s", *with_word(snapshot, call["id"], at != 1), mode="await")
        snapshot = await chat.snapshot("s")
        calls = parts_of(snapshot, "tool-call")
        assert [call["state"] for call in calls] == ["complete", "error", "complete"]
        assert len({call["approval"]["id"] for call in calls}) == 3
    assert model.noted == ["q0 0", "q2 0"]


def test_a_model_with_a_loop_of_its_own() -> None:
    """For a model with its own tool loop, results, questions, signatures and interrupts refer to the renamed call."""
    run = RunChunks("run-12345678", "s", lambda: "m", lambda: 0, known_calls={"call_1", "call_1-12345678-1"})
    items: list[dict[str, Any]] = [
        {"type": "TOOL_CALL_START", "toolCallId": "call_1", "toolCallName": "look"},
        {"type": "TOOL_CALL_ARGS", "toolCallId": "call_1", "delta": "{}"},
        {"type": "TOOL_CALL_END", "toolCallId": "call_1"},
        {"type": "REASONING_ENCRYPTED_VALUE", "subtype": "tool-call", "entityId": "call_1", "encryptedValue": "x"},
        {
            "type": "CUSTOM",
            "name": "approval-requested",
            "value": {"toolCallId": "call_1", "approval": {"id": "a", "needsApproval": True}},
        },
        {"type": "TOOL_CALL_RESULT", "toolCallId": "call_1", "content": "1"},
        {"type": "TOOL_CALL_CHUNK", "toolCallId": "call_1", "toolCallName": "look", "delta": "{}"},
        {
            "type": "RUN_FINISHED",
            "outcome": {
                "type": "interrupt",
                "interrupts": [{"id": "b", "toolCallId": "call_1", "reason": "approval_required"}],
            },
        },
    ]
    made = [chunk for item in items for chunk in run.accept(item)]
    values = [chunk["value"] for chunk in made if chunk["type"] == "CUSTOM"]
    named = [chunk.get("toolCallId") or chunk.get("entityId") for chunk in made if chunk["type"] != "CUSTOM"]
    first, second = "call_1-12345678-2", "call_1-12345678-3"
    assert list(dict.fromkeys(filter(None, named))) == [first, second]
    assert [(value["toolCallId"], value["approval"]["id"]) for value in values] == [
        (first, f"approval_{first}"),
        (second, f"approval_{second}"),
    ]


def test_a_call_that_is_carried_out_again_is_the_same() -> None:
    """A model may start an approved call again when it continues. A further call with that id is another one."""
    run = RunChunks("run-12345678", "s", lambda: "m", lambda: 0, known_calls={"call_1"})
    run.start()
    run.resume(["call_1"], speaks=False)
    start = {"type": "TOOL_CALL_START", "toolCallId": "call_1", "toolCallName": "look"}
    result = {"type": "TOOL_CALL_RESULT", "toolCallId": "call_1", "content": "1"}
    assert run.accept(start) == []
    assert run.accept(result)[-1]["toolCallId"] == "call_1"
    assert run.accept(start)[-1]["toolCallId"] == "call_1-12345678-1"


def test_a_long_id_is_shortened_where_it_is_used_again() -> None:
    """A repeated long id is shortened, because providers accept ids of at most 40 characters."""
    run = RunChunks("run-12345678", "s", lambda: "m", lambda: 0, known_calls={"x" * 256})
    made = run.accept({"type": "TOOL_CALL_START", "toolCallId": "x" * 256, "toolCallName": "look"})
    assert len(made[-1]["toolCallId"]) <= 40


def call(call_id: str, **more: Any) -> dict[str, Any]:
    return {"type": "tool-call", "id": call_id, "name": "look", "arguments": "{}", "state": "complete", **more}


def result(call_id: str, content: str) -> dict[str, Any]:
    return {"type": "tool-result", "toolCallId": call_id, "content": content, "state": "complete"}


@pytest.mark.parametrize(
    ("parts", "pairs"),
    [
        ([[call("a"), result("a", "1")], [call("a"), result("a", "2")]], ["1", "2"]),
        ([[call("a"), result("a", "1"), call("a"), result("a", "2")]], ["1", "2"]),
        ([[call("a"), call("a"), result("a", "1"), result("a", "2")]], ["1", "2"]),
        ([[call("a"), result("a", "1")], [call("a-1")], [call("a"), result("a", "3")]], ["1", None, "3"]),
        ([[call("a")], [call("a")], [result("a", "1")]], ["1", None]),
    ],
)
def test_an_imported_history(parts: list[list[dict[str, Any]]], pairs: list[str | None]) -> None:
    """In an imported history each call gets its own id, and each result stays with its call."""
    history = [{"id": f"m{at}", "role": "assistant", "parts": each} for at, each in enumerate(parts)]
    made = [part for message in with_unique_calls(history) for part in message["parts"]]
    calls = [part["id"] for part in made if part["type"] == "tool-call"]
    results = {part["toolCallId"]: part["content"] for part in made if part["type"] == "tool-result"}
    assert len(set(calls)) == len(calls)
    assert [results.get(call_id) for call_id in calls] == pairs


def test_a_history_of_one_id_and_names_made_of_it() -> None:
    """
    Importing a history takes linear time in the number of calls, whatever the ids. Quadratic time would be minutes.
    """
    count = 20_000
    chosen = [call(f"a-{at}") for at in range(count)]
    parts = [*chosen, *[call("a")] * count, *[result("a", "1")] * count]
    (message,) = with_unique_calls([{"id": "m", "role": "assistant", "parts": parts}])
    assert len({part["id"] for part in message["parts"] if part["type"] == "tool-call"}) == 2 * count
    assert len({part["toolCallId"] for part in message["parts"] if part["type"] == "tool-result"}) == count


async def test_a_history_is_imported_with_calls_of_their_own() -> None:
    """In an imported history the approval of a repeated id also gets its own id."""
    asking = call("a", state="approval-requested", approval={"id": "approval_a", "needsApproval": True})
    history = [
        user("hi"),
        {"id": "m1", "role": "assistant", "parts": [call("a", approval={"id": "approval_a", "approved": True})]},
        user("more", "u2"),
        {"id": "m2", "role": "assistant", "parts": [asking]},
        user("and?", "u3"),
    ]
    model = Counting(rounds=0)
    async with serve_chat(model.agent()) as chat:
        await chat.post("s", *history, mode="await")
        calls = parts_of(await chat.snapshot("s"), "tool-call")
        assert len({part["id"] for part in calls}) == len({part["approval"]["id"] for part in calls}) == 2
