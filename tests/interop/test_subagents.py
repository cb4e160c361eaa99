"""A subagent's text in real clients: AG-UI 1.0 shows it separately, and no client shows it as the answer."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.interop.playing import CLIENTS, Facts, play
from tests.interop.test_agui import CLIENTS as AGENTS
from tests.servers import Process, start_app

APP = """
from durable_chat import DurableChat, Settings

chat = DurableChat(settings=Settings(coalesce="off"), protocol=True, page=False)
SUB = {"subagentRunId": "sub-1"}

@chat.model
async def answer(turn):
    yield "I ask. "
    yield {"type": "SUBAGENT_STARTED", **SUB, "name": "helper"}
    yield {"type": "TEXT_MESSAGE_START", "messageId": "s1", "role": "assistant", **SUB}
    yield {"type": "TEXT_MESSAGE_CONTENT", "messageId": "s1", "delta": "I look.", **SUB}
    yield {"type": "TEXT_MESSAGE_END", "messageId": "s1", **SUB}
    yield {"type": "TOOL_CALL_START", "toolCallId": "c9", "toolCallName": "search", **SUB}
    yield {"type": "TOOL_CALL_END", "toolCallId": "c9", **SUB}
    yield {"type": "TOOL_CALL_RESULT", "messageId": "t9", "toolCallId": "c9", "content": "blue", **SUB}
    yield {"type": "SUBAGENT_FINISHED", **SUB}
    yield "It is blue."
"""
ANSWER = "I ask. It is blue."


@pytest.fixture
def app(tmp_path: Path, processes: list[Process]) -> Process:
    return start_app(tmp_path / "app", APP, processes)


@pytest.mark.parametrize("client", AGENTS)
def test_ag_ui(app: Process, client: str) -> None:
    """
    AG-UI 1.0 gets the subagent's events with their attribution. The older client, which fails at new types, gets
    none.
    """
    facts = play("agui.mjs", "talk", base=app.url, session="t", client=AGENTS[client], texts=["hello", "again"])
    for run in facts["runs"]:
        assert run["error"] is None
        told = [event for event in run["events"] if event.get("subagentRunId")]
        if client == "ag-ui-0.0":
            assert told == []
            continue
        assert [event["type"] for event in told] == [
            *("SUBAGENT_STARTED", "TEXT_MESSAGE_START", "TEXT_MESSAGE_CONTENT", "TEXT_MESSAGE_END", "TOOL_CALL_START"),
            *("TOOL_CALL_END", "TOOL_CALL_RESULT", "SUBAGENT_FINISHED"),
        ]
    own = [
        event["delta"]
        for event in facts["runs"][0]["events"]
        if event["type"] == "TEXT_MESSAGE_CONTENT" and not event.get("subagentRunId")
    ]
    assert "".join(own) == ANSWER


@pytest.mark.parametrize("client", CLIENTS)
def test_tanstack(app: Process, client: str) -> None:
    """The sender, a watching tab, later tabs and the snapshot show the answer only."""
    facts: Facts = play(
        "chat.mjs", "conversation", base=app.url, session="t", client=client, texts=["hello"], last="again"
    )
    told = facts["after"]["snapshot"]["transcript"]
    answers = [message["parts"] for message in told if message["role"] == "assistant"]
    assert answers == [[{"type": "text", "content": ANSWER}]] * 2
    for name, tab in facts["after"]["tabs"].items():
        assert (tab["transcript"], tab["errors"]) == (told, []), name
