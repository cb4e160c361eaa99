"""The demo model: its visible behaviour, without a key or a network."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from durable_chat.models.base import ProviderError, Turn
from durable_chat.models.choosing import with_tools
from durable_chat.models.demo import DELAY_MS_DEFAULT, LONG_MS, DemoModel
from durable_chat.models.outputs import open_output
from durable_chat.models.tools import ToolError, Tools, make_tool
from durable_chat.transcripts.answers.normalization import RunChunks
from durable_chat.transcripts.chunks import Chunk


def asked(text: str) -> Turn:
    message = {"id": "u", "role": "user", "parts": [{"type": "text", "content": text}]}
    return Turn(messages=(message,), session_id="s", run_id="run-1")


async def answer(text: str, deltas: int | None = None) -> list[Chunk]:
    run = RunChunks("run-1", "s", lambda: "new", lambda: 1)
    made = run.start()
    try:
        async for chunk in await open_output(with_tools(DemoModel(deltas, 0), Tools(), 4), asked(text)):
            made += run.accept(chunk)
        return made + run.finish()
    except ProviderError as error:
        return made + run.fail(error.message, error.code)


def deltas_of(made: list[Chunk]) -> list[str]:
    return [chunk["delta"] for chunk in made if chunk["type"] == "TEXT_MESSAGE_CONTENT"]


def kinds(made: list[Chunk]) -> list[str]:
    return [chunk["type"] for chunk in made]


async def test_it_answers_about_what_was_written() -> None:
    """The message is quoted in Markdown, word by word, with timestamps."""
    made = await answer("What is a stream?")
    text = "".join(deltas_of(made))
    assert "> What is a stream?" in text
    assert "**4 words**" in text
    assert "- `think`" in text
    assert "```" not in text
    assert len(deltas_of(made)) > 20
    assert all(isinstance(chunk["timestamp"], int) for chunk in made)
    assert made[-1]["metadata"]["tanstack"]["finishReason"] == "stop"
    assert made[-1]["usage"][0]["outputTokens"] == len(deltas_of(made))


async def test_code_is_shown_to_who_asks_for_it() -> None:
    assert "```python" in "".join(deltas_of(await answer("Show me some code")))


@pytest.mark.parametrize("deltas", [0, 1, 2, 7, 100, 3000])
@pytest.mark.parametrize("text", ["hello", "", "think tool", "approve"])
async def test_the_number_of_deltas_is_exact(deltas: int, text: str) -> None:
    """The number of deltas is exact, because tests and load tests depend on it."""
    made = await answer(text, deltas)
    assert len(deltas_of(made)) == deltas
    assert all(deltas_of(made))
    assert made[-1]["type"] == "RUN_FINISHED"


async def test_whole_words_count() -> None:
    """Only whole words count (`thinking` is not `think`), in any case."""
    assert "REASONING_MESSAGE_CONTENT" not in kinds(await answer("I am thinking of failure and approval, tools along"))
    assert "REASONING_MESSAGE_CONTENT" in kinds(await answer("Think!"))


async def test_think_comes_first() -> None:
    made = await answer("think")
    assert kinds(made).index("REASONING_MESSAGE_CONTENT") < kinds(made).index("TEXT_MESSAGE_CONTENT")


async def test_tool_has_a_result() -> None:
    """The model writes a call with arguments, its result, and an answer in a separate message."""
    made = await answer("use a tool please")
    found = next(chunk for chunk in made if chunk["type"] == "TOOL_CALL_RESULT")
    assert found["content"] == '{"words": 4, "characters": 17}'
    assert kinds(made).count("TEXT_MESSAGE_START") == 2
    assert kinds(made).index("TOOL_CALL_RESULT") < kinds(made).index("TEXT_MESSAGE_CONTENT")


async def test_approve_asks_and_ends_with_stop() -> None:
    """A question ends the run with `stop`, because clients answer only then."""
    made = await answer("approve this")
    asked_for = next(chunk["value"] for chunk in made if chunk["type"] == "CUSTOM")
    call = next(chunk for chunk in made if chunk["type"] == "TOOL_CALL_START")
    assert asked_for["toolCallId"] == call["toolCallId"]
    assert asked_for["input"] == {"note": "approve this"}
    assert asked_for["approval"]["needsApproval"] is True
    assert "TOOL_CALL_RESULT" not in kinds(made)
    assert made[-1]["metadata"]["tanstack"]["finishReason"] == "stop"


def add(first: int, second: int) -> int:
    return first + second


def broken(text: str) -> None:
    raise ToolError(f"Not {text}.")


async def with_own_tools(text: str, *parts: dict[str, Any], approved: tuple[str, ...] = ()) -> list[Chunk]:
    """Return the demo's answer with these tools. `parts` are the answer's parts so far."""
    run = RunChunks("run-1", "s", lambda: "new", lambda: 1)
    run.resume(approved, speaks=True)
    turn = asked(text)
    if parts:
        turn = replace(turn, messages=(*turn.messages, {"id": "a", "role": "assistant", "parts": list(parts)}))
    made = run.start()
    model = with_tools(DemoModel(None, 0), Tools([make_tool(add), make_tool(broken)]), 4)
    async for chunk in await open_output(model, replace(turn, approved=approved)):
        made += run.accept(chunk)
    return made + run.finish()


@pytest.mark.parametrize(
    ("text", "result", "words"),
    [
        ('add {"first": 1, "second": 2}', "3", "`add` gave 3."),
        ("add {", '{"error":"The arguments are wrong: Object missing required field `first`."}', "`add` failed"),
        ("broken", '{"error":"Not broken."}', "`broken` failed"),
    ],
)
async def test_it_calls_a_tool_that_is_named(text: str, result: str, words: str) -> None:
    """
    The model calls a named tool with the object in the message, or with the message itself, and then describes the
    result.
    """
    made = await with_own_tools(text)
    assert [chunk["content"] for chunk in made if chunk["type"] == "TOOL_CALL_RESULT"] == [result]
    assert "".join(deltas_of(made)).endswith(words) or words in "".join(deltas_of(made))
    assert kinds(made).count("RUN_FINISHED") == 1
    assert kinds(await with_own_tools("adder and add_up")).count("TOOL_CALL_START") == 0


@pytest.mark.parametrize(("approved", "words"), [(True, "The note is saved."), (False, "You did not approve")])
async def test_it_goes_on_after_an_approval(approved: bool, words: str) -> None:
    """After an approval the model describes the result and does not begin again."""
    approval = {"id": "p", "needsApproval": True, "approved": approved}
    call = {"type": "tool-call", "id": "c", "name": "save_note", "arguments": '{"note":"n"}', "approval": approval}
    state: dict[str, Any] = (
        {"state": "approval-responded"} if approved else {"state": "error", "output": {"error": "no"}}
    )
    made = await with_own_tools("approve", call | state, approved=("c",) if approved else ())
    assert "".join(deltas_of(made)).startswith(words)
    assert kinds(made).count("TOOL_CALL_RESULT") == int(approved)
    assert kinds(made).count("CUSTOM") == 0


async def test_fail_fails_halfway() -> None:
    made = await answer("fail", 10)
    assert len(deltas_of(made)) == 5
    assert (made[-1]["type"], made[-1]["code"]) == ("RUN_ERROR", "demo_failure")


async def test_long_is_a_minute_of_text() -> None:
    assert len(deltas_of(await answer("a long one"))) == LONG_MS // DELAY_MS_DEFAULT


@pytest.mark.parametrize(
    "message", [{"id": "u", "role": "user", "content": "plain"}, {"id": "u", "role": "user", "parts": 5}]
)
async def test_any_message_is_answered(message: dict[str, Any]) -> None:
    turn = Turn(messages=(message,), session_id="s", run_id="r")
    assert [chunk async for chunk in DemoModel(3, 0)(turn)]


async def test_what_it_counts_does_not_grow_with_the_session() -> None:
    """The usage counts the last message and the answer only, so that a turn's cost does not grow with the session."""
    messages = [{"id": f"u{n}", "role": "user", "parts": [{"type": "text", "content": "a b c"}]} for n in range(50)]
    turn = Turn((*messages,), "s", "run-1")
    usage = [chunk async for chunk in DemoModel(delay_ms=0)(turn)][-1]["usage"][0]
    assert usage["inputTokens"] == 3


async def test_a_long_message_is_read_in_part() -> None:
    """Only the first 50,000 characters of a message are read, and the answer says that there are more."""
    text = "word " * 100_000 + "fail"
    made = "".join(chunk.get("delta", "") for chunk in await answer(text))
    assert "You wrote **over 10000 words**" in made
