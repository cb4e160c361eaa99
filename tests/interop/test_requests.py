"""TanStack's real client with request-scoped connections: `fetchServerSentEvents` and `fetchHttpStream`, unchanged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Serve
from tests.interop.playing import Facts, play
from tests.servers import Process, Server, start_app

APP = """
from durable_chat import DurableChat, Settings

chat = DurableChat(settings=Settings(model="demo", demo_delay_ms=5), protocol=True, page=False)
chat.client_tool("locate", description="Where the user is.")
"""


def with_cells(*cases: str) -> pytest.MarkDecorator:
    names = ("sse", "ndjson")
    params = [pytest.param(name, marks=pytest.mark.cell(f"tanstack-{name}", *cases)) for name in names]
    return pytest.mark.parametrize("kind", params)


def run(server: Process, scenario: str, kind: str, **options: Any) -> Facts:
    facts: Facts = play("requests.mjs", scenario, base=server.url, session="t", kind=kind, **options)
    return facts


def parts(messages: list[Facts], kind: str) -> list[Facts]:
    return [part for message in messages for part in message["parts"] if part["type"] == kind]


def said(messages: list[Facts]) -> str:
    answers = [message for message in messages if message["role"] == "assistant"]
    return "".join(part["content"] for part in parts(answers, "text"))


@with_cells("send", "stream", "second tab")
def test_a_conversation(server: Server, kind: str) -> None:
    """The sender, a watching tab and the server agree on every message, thought and tool call."""
    facts = run(server, "talk", kind, texts=["hello", "think, and use a tool", "thanks"])
    for name, tab in facts["tabs"].items():
        assert (tab["errors"], tab["loading"], tab["status"]) == ([], False, "ready"), name
    assert facts["tabs"]["sender"]["runs"] == 3
    kinds = {part["type"] for message in facts["transcript"] for part in message["parts"]}
    assert kinds == {"text", "thinking", "tool-call", "tool-result"}


@with_cells("tool")
def test_a_clients_tool(tmp_path: Path, processes: list[Process], kind: str) -> None:
    """The sender executes its tool and posts the result, and the model continues with it."""
    app = start_app(tmp_path / "app", APP, processes)
    facts = run(app, "clientTool", kind, text="locate me", tool="locate")
    (result,) = parts(facts["transcript"], "tool-result")
    assert result["state"] == "complete"
    assert "`locate` gave" in said(facts["transcript"])
    assert facts["tabs"]["sender"]["errors"] == []


@with_cells("approval")
@pytest.mark.parametrize("approved", [True, False], ids=["approved", "denied"])
def test_an_approval(server: Server, kind: str, approved: bool) -> None:
    """The sender gets the question, decides, and sees the text after it. So does the watching tab."""
    facts = run(server, "approval", kind, text="approve this", approved=approved)
    (call,) = parts(facts["transcript"], "tool-call")
    assert call["approval"]["approved"] is approved
    text = said(facts["transcript"])
    assert ("The note is saved." in text, "did not approve" in text) == (approved, not approved)
    assert facts["tabs"]["sender"]["errors"] == []


@with_cells("error")
def test_a_failure(server: Server, kind: str) -> None:
    """The sender reports the error and shows the text before it. Its next message is answered."""
    facts = run(server, "talk", kind, texts=["please fail", "hello"])
    sender = facts["tabs"]["sender"]
    assert len(sender["errors"]) == 1
    assert (sender["status"], sender["runs"]) == ("ready", 2)


@with_cells("attachment")
def test_an_attachment(server: Server, kind: str) -> None:
    """Every tab has the file in the message, and the model gets it."""
    source = {"type": "data", "value": "iVBORw0KGgo=", "mimeType": "image/png"}
    content = [{"type": "text", "content": "look"}, {"type": "image", "source": source}]
    facts = run(server, "talk", kind, texts=[content])
    asked = facts["transcript"][0]["parts"]
    assert [part["type"] for part in asked] == ["text", "image"]
    assert asked[1]["source"]["value"] == source["value"]


@with_cells("stop")
@pytest.mark.parametrize("stops", ["connection", "chat"])
def test_a_stop(serve: Serve, kind: str, stops: str) -> None:
    """
    With the module, the connection's `stop` ends the answer for everybody, and so does the chat's own with
    `stopOnAbort`.
    """
    server = serve(DURABLE_CHAT_DEMO_DELAY_MS="30")
    facts = run(server, "stop", kind, text="write a long story", stops=stops)
    assert facts["snapshot"]["lastRun"]["status"] == "stopped"
    assert facts["sender"]["errors"] == facts["watcher"]["errors"] == []
    assert (facts["sender"]["loading"], facts["watcher"]["generating"]) == (False, False)


def test_leaving_stops_nothing(serve: Serve) -> None:
    """Without the module, the chat's `stop` only closes the connection, as a reload does, and the answer continues."""
    server = serve(DURABLE_CHAT_DEMO_DELAY_MS="20", DURABLE_CHAT_DEMO_CHUNKS="80")
    facts = run(server, "stop", "sse", text="hello", stops="")
    assert facts["snapshot"]["lastRun"]["status"] == "finished"
    assert len(said(facts["watcher"]["transcript"])) > len(said(facts["sender"]["transcript"]))
