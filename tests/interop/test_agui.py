"""AG-UI's real client (`HttpAgent`) on `/api/agui`, in the two versions that frontends use."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Serve
from tests.interop.playing import Facts, play
from tests.servers import Process, Server, start_app
from tests.web.tabs import snapshot

CLIENTS = {"ag-ui-1.0": "@ag-ui/client", "ag-ui-0.0": "ag-ui-client-0-0-59"}

APP = """
from durable_chat import DurableChat, Settings

chat = DurableChat(settings=Settings(model="demo", demo_delay_ms=5), protocol=True, page=False)
"""


def with_cells(*cases: str) -> pytest.MarkDecorator:
    params = [pytest.param(name, marks=pytest.mark.cell(name, *cases)) for name in CLIENTS]
    return pytest.mark.parametrize("client", params)


def run(server: Process, scenario: str, client: str, **options: Any) -> Facts:
    facts: Facts = play("agui.mjs", scenario, base=server.url, session="t", client=CLIENTS[client], **options)
    return facts


def roles(messages: list[Facts]) -> list[str]:
    return [message["role"] for message in messages]


def content(facts: Facts, role: str = "assistant") -> str:
    return "".join(message.get("content") or "" for message in facts["messages"] if message["role"] == role)


def said(snapshot: Facts, kind: str = "text") -> str:
    """Return the text of the answers in a snapshot."""
    answers = [message for message in snapshot["messages"] if message["role"] == "assistant"]
    return "".join(part["content"] for message in answers for part in message["parts"] if part["type"] == kind)


@with_cells("send", "stream")
def test_a_conversation(server: Server, client: str) -> None:
    """Each answer arrives in pieces, and at the end the client has the session's messages, each once."""
    facts = run(server, "talk", client, texts=["hello", "again"])
    for one in facts["runs"]:
        assert one["error"] is None
        assert (one["types"][0], one["types"][-1]) == ("RUN_STARTED", "RUN_FINISHED")
        assert one["types"].count("TEXT_MESSAGE_CONTENT") > 3
        assert one["events"][-1]["outcome"] == {"type": "success"}
    last = facts["runs"][-1]
    assert roles(last["messages"]) == ["user", "assistant", "user", "assistant"]
    assert content(last) == said(facts["snapshot"])
    assert [one["id"] for one in last["messages"]] == [one["id"] for one in facts["snapshot"]["messages"]]


@pytest.mark.parametrize("client", CLIENTS)
def test_a_conversation_over_the_models_limit(serve: Serve, client: str) -> None:
    """A summary for the model's context does not fail any client, and each has the session's messages."""
    server = serve(DURABLE_CHAT_CONTEXT_TOKENS="500")
    facts = run(server, "talk", client, texts=["hello", "again", "a third message", "a fourth one", "and a fifth"])
    assert [one["error"] for one in facts["runs"]] == [None] * 5
    last = facts["runs"][-1]
    assert "contextSummary" in facts["snapshot"]
    assert content(last) == said(facts["snapshot"])
    assert [one["id"] for one in last["messages"]] == [one["id"] for one in facts["snapshot"]["messages"]]


@with_cells("stream")
def test_reasoning(server: Server, client: str) -> None:
    """The reasoning is a separate message before the answer."""
    first, last = run(server, "talk", client, texts=["think about it", "and think again"])["runs"]
    assert (first["error"], last["error"]) == (None, None)
    assert roles(first["messages"]) == ["user", "reasoning", "assistant"]
    assert roles(last["messages"]) == 2 * roles(first["messages"])
    assert all(message["content"] for message in last["messages"])


@with_cells("tool")
def test_a_tool_of_the_server(server: Server, client: str) -> None:
    """The client gets a server tool's call, its result and the text around them."""
    facts = run(server, "talk", client, texts=["use a tool", "thanks"])
    for one in facts["runs"]:
        assert one["error"] is None
    messages = facts["runs"][0]["messages"]
    (calling,) = [message for message in messages if message.get("toolCalls")]
    (result,) = [message for message in messages if message["role"] == "tool"]
    assert result["toolCallId"] == calling["toolCalls"][0]["id"]
    assert content(facts["runs"][0]) == said({"messages": facts["snapshot"]["messages"][:-2]})


@with_cells("approval")
@pytest.mark.parametrize("path", ["/api/agui", "/api/chat"])
@pytest.mark.parametrize(
    "payload", [{"approved": True}, {"approved": False, "reason": "no"}, None], ids=["approved", "denied", "cancelled"]
)
def test_an_approval(server: Server, client: str, payload: Any, path: str) -> None:
    """The run ends with an interrupt. The next run answers it and has the result and the text after it."""
    facts = run(server, "approval", client, text="approve this", payload=payload, path=path)
    asked, done = facts["asked"], facts["done"]
    assert (asked["error"], done["error"]) == (None, None)
    (interrupt,) = asked["events"][-1]["outcome"]["interrupts"]
    (calling,) = [message for message in asked["messages"] if message.get("toolCalls")]
    assert (interrupt["reason"], interrupt["toolCallId"]) == ("tool_call", calling["toolCalls"][0]["id"])
    assert set(interrupt["responseSchema"]["properties"]) == {"approved", "reason"}
    assert done["interrupts"] == []
    assert done["events"][-1]["outcome"] == {"type": "success"}
    (result,) = [message for message in done["messages"] if message["role"] == "tool"]
    assert result["toolCallId"] == interrupt["toolCallId"]
    calls = [call for message in done["messages"] for call in message.get("toolCalls") or []]
    assert calls == calling["toolCalls"], "the call is not made again"
    approved = payload == {"approved": True}
    assert ("The note is saved." in content(done), "did not approve" in content(done)) == (approved, not approved)
    assert content(done) == said(facts["snapshot"])


@with_cells("tool")
def test_a_tool_of_the_frontend(tmp_path: Path, processes: list[Process], client: str) -> None:
    """The run ends with an open call. The client posts its result, and the server does not send it back."""
    app = start_app(tmp_path / "app", APP, processes)
    facts = run(app, "frontendTool", client, text="locate me", tool="locate", content='{"from": "here"}')
    asked, done = facts["asked"], facts["done"]
    assert (asked["error"], done["error"]) == (None, None)
    assert facts["call"]["function"]["name"] == "locate"
    assert roles(done["messages"])[-2:] == ["tool", "assistant"]
    assert roles(done["messages"]).count("tool") == 1
    assert "`locate` gave" in content(done)


@with_cells("error")
def test_a_failure(server: Server, client: str) -> None:
    """The client gets the error and keeps the text before it."""
    (one,) = run(server, "talk", client, texts=["please fail"])["runs"]
    assert one["types"][-1] == "RUN_ERROR"
    assert one["events"][-1]["message"]
    assert content(one)


@with_cells("stop")
def test_a_stop(serve: Serve, client: str) -> None:
    """A stop by another client ends the run as cancelled, without an error. Older clients do not know this outcome."""
    server = serve(DURABLE_CHAT_DEMO_DELAY_MS="30")
    facts = run(server, "stop", client, text="write a long story")
    stopped = facts["stopped"]
    assert stopped["error"] is None
    assert stopped["types"][-1] == "RUN_FINISHED"
    assert stopped["events"][-1].get("outcome") == ({"type": "cancelled"} if client == "ag-ui-1.0" else None)
    assert content(stopped) == said(facts["snapshot"])


@with_cells("second tab")
def test_a_tab_that_watches(serve: Serve, client: str) -> None:
    """A tab with another frontend sees the answer grow, and a message that it sends is in the same session."""
    server = serve(DURABLE_CHAT_DEMO_DELAY_MS="30")
    facts = run(server, "watched", client, texts=["hello", "and from here"])
    assert facts["run"]["error"] is None
    assert 0 < facts["grown"] < len(content(facts["run"]))
    assert facts["tab"]["errors"] == []
    assert roles(facts["tab"]["transcript"]) == ["user", "assistant", "user", "assistant"]
    assert said({"messages": facts["tab"]["transcript"]}) == said(facts["snapshot"])


def test_leaving(serve: Serve) -> None:
    """A client that closes its connection stops nothing."""
    server = serve(DURABLE_CHAT_DEMO_DELAY_MS="30", DURABLE_CHAT_DEMO_CHUNKS="60")
    run(server, "leave", "ag-ui-1.0", text="hello")
    deadline_s = time.monotonic() + 30
    while (state := snapshot(server, "t"))["activeRun"] is not None:
        assert time.monotonic() < deadline_s
        time.sleep(0.05)
    assert state["lastRun"]["status"] == "finished"


@with_cells("attachment")
def test_an_attachment(server: Server, client: str) -> None:
    """The user's file is in the session, and the model gets it."""
    source = {"type": "data", "value": "iVBORw0KGgo=", "mimeType": "image/png"}
    parts = [{"type": "text", "text": "look"}, {"type": "image", "source": source}]
    facts = run(server, "talk", client, texts=[parts])
    (one,) = facts["runs"]
    assert one["error"] is None
    asked = facts["snapshot"]["messages"][0]["parts"]
    assert [part["type"] for part in asked] == ["text", "image"]
    assert asked[1]["source"]["mimeType"] == "image/png"


EVERYTHING = """
from durable_chat import DurableChat

chat = DurableChat("memory://", page=False)
SUB = {"subagentRunId": "sub-1"}

@chat.model
async def answer(turn):
    yield {"type": "STEP_STARTED", "stepName": "plan"}
    yield {"type": "STATE_SNAPSHOT", "snapshot": {"a": 1, "b": None}}
    yield {"type": "STATE_DELTA", "delta": [{"op": "replace", "path": "/a", "value": None}]}
    yield {"type": "ACTIVITY_SNAPSHOT", "messageId": "act", "activityType": "plan", "content": {"x": None}}
    yield {"type": "CUSTOM", "name": "said", "value": None}
    yield {"type": "REASONING_MESSAGE_CONTENT", "messageId": "th", "delta": "Hm."}
    yield {"type": "REASONING_ENCRYPTED_VALUE", "subtype": "message", "entityId": "th", "encryptedValue": "sig"}
    yield {"type": "TEXT_MESSAGE_CONTENT", "messageId": "m", "delta": "Let me ask."}
    yield {"type": "SUBAGENT_STARTED", "name": "researcher", **SUB}
    yield {"type": "STEP_STARTED", "stepName": "plan", **SUB}
    yield {"type": "TEXT_MESSAGE_START", "messageId": "s", "role": "assistant", **SUB}
    yield {"type": "TEXT_MESSAGE_CONTENT", "messageId": "s", "delta": "I look.", **SUB}
    yield {"type": "TOOL_CALL_START", "toolCallId": "c", "toolCallName": "look", "parentMessageId": "s", **SUB}
    yield {"type": "REASONING_MESSAGE_CONTENT", "messageId": "th", "delta": "Hm again."}
    yield {"type": "TOOL_CALL_START", "toolCallId": "d", "toolCallName": "look"}
    yield {"type": "TOOL_CALL_ARGS", "toolCallId": "d", "delta": "{}"}
    yield {"type": "TOOL_CALL_RESULT", "toolCallId": "d", "content": "blue"}
    yield {"type": "TEXT_MESSAGE_CONTENT", "messageId": "n", "delta": "It is blue."}
"""


@pytest.mark.parametrize("client", CLIENTS)
def test_whatever_a_model_yields(tmp_path: Path, processes: list[Process], client: str) -> None:
    """
    No event fails the run, however incomplete the model's output is. A subagent stays separate for clients that
    support it.
    """
    app = start_app(tmp_path / "app", EVERYTHING, processes)
    facts = run(app, "talk", client, texts=["hello", "again"])
    for one in facts["runs"]:
        assert (one["error"], one["types"][-1]) == (None, "RUN_FINISHED")
    (first, _) = facts["runs"]
    own = [message for message in first["messages"] if not message.get("subagentRunId")]
    assert content({"messages": own}) == "Let me ask.It is blue."
    apart = [message["content"] for message in first["messages"] if message.get("subagentRunId")]
    assert apart == (["I look."] if client == "ag-ui-1.0" else [])
    custom = next(event for event in first["events"] if event["type"] == "CUSTOM")
    assert custom["value"] is None
    delta = next(event for event in first["events"] if event["type"] == "STATE_DELTA")
    assert delta["delta"][0]["value"] is None


TWO = """
from durable_chat import DurableChat, Settings

chat = DurableChat(settings=Settings(model="demo", demo_delay_ms=5), page=False)

@chat.tool(needs_approval=True)
async def pay() -> str:
    "Pays."
    return "paid"

@chat.tool(needs_approval=True)
async def order() -> str:
    "Orders."
    return "ordered"
"""


@pytest.mark.parametrize("client", CLIENTS)
def test_two_approvals(tmp_path: Path, processes: list[Process], client: str) -> None:
    """
    Two waiting calls are two interrupts, which one request answers. Both calls are executed, and neither is repeated.
    """
    app = start_app(tmp_path / "app", TWO, processes)
    facts = run(app, "approval", client, text="pay and order", payload={"approved": True})
    asked, done = facts["asked"], facts["done"]
    assert (asked["error"], done["error"]) == (None, None)
    assert len(asked["events"][-1]["outcome"]["interrupts"]) == 2
    calls = [call["id"] for message in done["messages"] for call in message.get("toolCalls") or []]
    results = {message["toolCallId"]: message["content"] for message in done["messages"] if message["role"] == "tool"}
    assert sorted(calls) == sorted(results)
    assert {value.strip('"') for value in results.values()} == {"paid", "ordered"}
    assert done["interrupts"] == []
    assert content(done) == said(facts["snapshot"])
