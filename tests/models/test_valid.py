"""A model's input is valid after a stop, a crash, a refusal, an unanswered question or a damaged log."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from durable_chat.models.anthropic.client import AnthropicModel
from durable_chat.models.anthropic.messages import takes_thinking, to_anthropic, tools_named_in
from durable_chat.models.base import ToolSpec
from durable_chat.models.choosing import with_tools
from durable_chat.models.context.limits import ContextLimit
from durable_chat.models.tools import Tool, Tools, make_tool
from durable_chat.sessions.running.turns import Stage, show_messages
from durable_chat.transcripts.answers.normalization import RunChunks
from durable_chat.transcripts.chunks import Chunk, messages_snapshot
from durable_chat.transcripts.context_summaries import CONTEXT_SUMMARY
from durable_chat.transcripts.tool_answers import Answer, accepted, give_answers
from durable_chat.transcripts.transcript import Transcript
from tests.models.strict import Strict, refusals
from tests.sessions.serving import Chat, ended, listening, serve_chat, types, user
from tests.transcripts.test_transcript import ANSWERS, LOOSE

KEY = "test-key-ABCDEF-0123456789"


def wrong_with(transcript: Transcript) -> list[str]:
    """Return what Anthropic would refuse of this transcript and a further user message."""
    transcript.fold_all(show_messages(transcript, [user("and now?", "last")], Stage(1)))
    conversation = to_anthropic(transcript.messages())
    assert conversation[-1]["content"][-1] == {"type": "text", "text": "and now?"}
    return refusals({"messages": conversation, "tools": tools_named_in(conversation)})


@given(log=st.lists(st.sampled_from(LOOSE), max_size=40))
@settings(max_examples=300, deadline=None)
def test_any_log_is_valid_for_the_model(log: list[Chunk]) -> None:
    """
    The input is valid for chunks in any order, doubled or left out, as a holder of the stream's secret may append
    them.
    """
    transcript = Transcript()
    transcript.fold_all(log)
    assert wrong_with(transcript) == []


TURNS = st.tuples(
    st.sampled_from(sorted(ANSWERS)),
    st.sampled_from(["finish", "stop", "fail", "crash"]),
    st.integers(0, 12),
    st.sampled_from([None, True, False]),
)


def said(log: Transcript, number: int, items: list[Any], end: str, cut: int) -> None:
    """Return one turn as the writer writes it. `cut` is the number of items after which it is interrupted."""
    log.fold_all(show_messages(log, [user("go", f"u{number}")], Stage(1)))
    ids = iter(range(1000))
    run = RunChunks(f"r{number}", "s", lambda: f"m-{number}-{next(ids)}", lambda: 1, known_ids=log)
    log.fold_all(run.start())
    for item in items if end == "finish" else items[:cut]:
        log.fold_all(run.accept(item))
    if end == "crash":
        log.fold({"type": "RUN_ERROR", "runId": f"r{number}", "message": "interrupted", "code": "interrupted"})
    else:
        log.fold_all(run.stop() if end == "stop" else run.fail("No.", "no") if end == "fail" else run.finish())


@given(turns=st.lists(TURNS, max_size=6))
@settings(max_examples=200, deadline=None)
def test_any_session_is_valid_for_the_model(turns: list[tuple[str, str, int, bool | None]]) -> None:
    """
    The input is valid for turns that end at any point and in any way, with questions answered, refused or left open.
    """
    log = Transcript()
    for number, (name, end, cut, word) in enumerate(turns):
        said(log, number, ANSWERS[name], end, cut)
        answers = [accepted(log, Answer(call, word, "given"), ()) for call in ("c", "d")]
        news = [answer for answer in answers if answer is not None]
        if word is not None and news:
            given_now = give_answers(log, news, 1)
            log.fold(messages_snapshot(given_now.messages, timestamp=1))
            log.fold_all(given_now.chunks)
    assert wrong_with(log) == []


def test_the_rules_refuse_what_anthropic_refuses() -> None:
    """The check itself finds invalid input, because otherwise these tests would prove nothing."""
    text = {"type": "text", "text": "hi"}
    use = {"type": "tool_use", "id": "a", "name": "look", "input": {}}
    result = {"type": "tool_result", "tool_use_id": "a", "content": "x"}
    tools = [{"name": "look", "input_schema": {"type": "object"}}]

    def said_by(*turns: list[Any]) -> list[str]:
        roles = ("user", "assistant") * len(turns)
        messages = [{"role": role, "content": turn} for role, turn in zip(roles, turns, strict=False)]
        return refusals({"messages": messages, "tools": tools})

    assert said_by([text], [use], [result, text]) == []
    bad = [
        ([],),
        ([text], [text]),
        ([{"type": "text", "text": " "}],),
        ([text], [use], [text]),
        ([text], [use], [text, result]),
        ([text], [use, use], [result, result]),
        ([text], [use | {"id": "a/b"}], [result | {"tool_use_id": "a/b"}]),
        ([text], [use | {"name": "other"}], [result]),
        ([text], [use], [result | {"content": "", "is_error": True}]),
        ([text], [{"type": "thinking", "thinking": "hm"}], [text]),
        ([result],),
    ]
    assert all(said_by(*turns) for turns in bad)


def test_thinking_is_not_asked_for_in_the_middle_of_a_loop_without() -> None:
    """
    Thinking is not requested in a tool loop that started without it: Anthropic requires the loop's answers to begin
    with thinking, which may have been cut before its signature.
    """
    call = {"type": "tool-call", "id": "c", "name": "look", "arguments": "{}", "state": "complete", "output": 1}
    thought = {"type": "thinking", "content": "hm", "signature": "sig"}
    asked = user("go")
    for parts, whether in (([call], False), ([thought, call], True), ([{"type": "text", "content": "so"}], True)):
        answer = {"id": "a", "role": "assistant", "parts": parts}
        assert takes_thinking(to_anthropic([asked, answer])) is whether
    assert takes_thinking(to_anthropic([asked]))


# End to end: a session, the provider's real package, and a provider as strict as Anthropic's.


class Session:
    """A chat on the strict provider, with a tool that waits until the test continues it."""

    def __init__(self) -> None:
        self.provider = Strict()
        self.go = asyncio.Event()
        self.running = asyncio.Event()

    async def look(self) -> str:
        """Looks."""
        self.running.set()
        await self.go.wait()
        return "seen"

    def tools(self) -> Tools:
        keep = make_tool(lambda: "kept", name="keep", needs_approval=True)
        return Tools([make_tool(self.look), keep, Tool(ToolSpec("locate"))])


@pytest.fixture
async def chat(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Chat, Session]]:
    session = Session()
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    async with listening(session.provider.app) as address:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", address)
        model = AnthropicModel("m", max_retries=0, options={"thinking": {"type": "enabled", "budget_tokens": 1024}})
        async with serve_chat(with_tools(model, session.tools(), 4)) as made:
            yield made, session
        await model.aclose()


async def test_a_tool_loop_with_anthropic(chat: tuple[Chat, Session]) -> None:
    """The provider gets the tools and the results, and answers in the same run."""
    served, session = chat
    session.go.set()
    assert (await served.post("s", user("please call look and call look"), mode="await")).status_code == 200
    first, second = session.provider.requests
    assert {tool["name"] for tool in first["tools"]} == {"look", "keep", "locate"}
    assert "thinking" in first
    assert "thinking" not in second
    assert [block["content"] for block in second["messages"][-1]["content"]] == ["seen", "seen"]
    chunks = await served.chunks("s")
    assert (types(chunks).count("RUN_STARTED"), types(chunks).count("RUN_FINISHED")) == (1, 1)
    assert len(chunks[-1]["usage"]) == 2
    assert session.provider.refused == []


@pytest.mark.parametrize("what", ["stopped", "unanswered", "denied", "approved", "unknown", "given"])
async def test_the_next_turn_is_valid(chat: tuple[Chat, Session], what: str) -> None:
    """Whatever happened to the calls before it, the provider accepts the next message."""
    served, session = chat
    name = {"stopped": "look", "unknown": "fly", "given": "locate"}.get(what, "keep")
    await served.post("s", user(f"call {name}"))
    if what == "stopped":
        await asyncio.wait_for(session.running.wait(), 10)
        await served.client.post("/api/chat-stop", params={"id": "s"})
    await served.until("s", ended())
    messages = (await served.snapshot("s"))["messages"]
    for part in messages[-1]["parts"]:
        if part["type"] == "tool-call" and what in ("denied", "approved"):
            part["approval"]["approved"] = what == "approved"
        if part["type"] == "tool-call" and what == "given":
            part["output"] = {"at": "home"}
    if what in ("denied", "approved", "given"):
        await served.post("s", *messages, mode="await")
    assert (await served.post("s", user("go on", "u2"), mode="await")).status_code == 200
    assert session.provider.refused == []


async def test_a_long_conversation_with_anthropic(monkeypatch: pytest.MonkeyPatch) -> None:
    """Near the limit Anthropic counts. The summary and all answers are of requests that it takes, tool calls included."""
    provider = Strict()
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    async with listening(provider.app) as address:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", address)
        model = ContextLimit(AnthropicModel("m", max_retries=0, options={"system": "Be kind."}), 1000)
        agent = with_tools(model, Tools([make_tool(lambda: "seen " * 100, name="look")]), 4)
        async with serve_chat(agent) as chat:
            for number in range(8):
                message = user(f"call look {'word ' * 80}", f"u{number}")
                assert (await chat.post("s", message, mode="await")).status_code == 200
            chunks = await chat.chunks("s")
        await model.aclose()
    assert provider.refused == []
    assert {body["system"] for body in provider.counted} == {"Be kind."}
    summaries = [chunk["value"] for chunk in chunks if chunk.get("name") == CONTEXT_SUMMARY]
    assert len(summaries) >= 2
    assert all("failure" not in value for value in summaries)
    asked = [body for body in provider.requests if "tools" not in body]
    assert len(asked) >= len(summaries)
    assert not any(chunk["type"] == "RUN_ERROR" for chunk in chunks)
