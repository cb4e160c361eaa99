"""The served module instead of the stock connection, in cases without lost connections."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Serve
from tests.interop.playing import CLIENTS, Facts, play
from tests.interop.test_files import APP, CONTENT, HEARD, SHOWN
from tests.servers import Process, Server, start_app


def run(server: Process, script: str, scenario: str, **options: Any) -> Facts:
    named: dict[str, Any] = {"base": server.url, "session": "module", "client": CLIENTS[0], "connect": "module"}
    facts: Facts = play(script, scenario, **named, **options)
    return facts


def parts(messages: list[Facts], kind: str) -> list[Facts]:
    return [part for message in messages for part in message["parts"] if part["type"] == kind]


@pytest.mark.cell("tanstack-module", "tool")
def test_a_tool(server: Server) -> None:
    """The sender, a watching tab and a later tab show the call and its result."""
    facts = run(server, "chat.mjs", "conversation", texts=["tool"], last="goodbye")
    told = facts["after"]["snapshot"]["transcript"]
    assert [part["state"] for part in parts(told, "tool-call")] == ["complete"]
    for name, tab in facts["after"]["tabs"].items():
        assert (tab["transcript"], tab["errors"]) == (told, []), name


@pytest.mark.cell("tanstack-module", "error")
def test_an_error(server: Server) -> None:
    """Every tab learns once that the model failed, and the next message is answered."""
    facts = run(server, "chat.mjs", "failure", texts=["fail", "hello"])
    for name, tab in facts["failed"]["tabs"].items():
        assert (tab["status"], len(tab["errors"])) == ("error", 1), name
    for name, tab in facts["after"]["tabs"].items():
        assert (tab["status"], tab["transcript"]) == ("ready", facts["after"]["snapshot"]["transcript"]), name


@pytest.mark.cell("tanstack-module", "reload midway")
def test_reload_midway(serve: Serve) -> None:
    """Tabs that join during an answer see it from its beginning, and end with the sender's messages."""
    server = serve(DURABLE_CHAT_DEMO_DELAY_MS="30")
    facts = run(server, "chat.mjs", "reload", texts=["think and use a tool"], stop=False)
    told = facts["after"]["snapshot"]["transcript"]
    assert len(parts(told, "thinking")) == len(parts(told, "tool-call")) == 1
    for name, tab in facts["after"]["tabs"].items():
        assert (tab["transcript"], tab["errors"]) == (told, []), name


@pytest.mark.cell("tanstack-module", "approval")
@pytest.mark.parametrize("approved", [True, False], ids=["approved", "denied"])
def test_an_approval(server: Server, approved: bool) -> None:
    """A watching tab decides. Every tab shows the decision and its result."""
    options = {"sent": "approve this", "last": "hello", "by": "watcher", "both": False}
    facts = run(server, "tools.mjs", "approval", approved=approved, **options)
    (call,) = parts(facts["done"]["transcript"], "tool-call")
    assert (call["approval"]["approved"], call["state"]) == (approved, "complete" if approved else "error")
    for name, tab in facts["after"]["tabs"].items():
        assert (tab["errors"], tab["loading"], tab["subscribed"]) == ([], False, True), name


@pytest.mark.cell("tanstack-module", "attachment")
def test_attachments(tmp_path: Path, processes: list[Process]) -> None:
    """Every tab shows the files, and the model gets their bytes."""
    app = start_app(tmp_path / "app", APP, processes)
    content = tmp_path / "content.json"
    content.write_text(json.dumps(CONTENT))
    facts = run(app, "files.mjs", "sent", content=str(content), last="and now?")
    told = facts["loaded"]["transcript"]
    assert [part["type"] for part in told[0]["parts"]] == [part["type"] for part in SHOWN]
    assert "".join(part["content"] for part in told[1]["parts"]) == HEARD
    for name, tab in facts["again"]["tabs"].items():
        assert (tab["transcript"], tab["error"]) == (facts["again"]["transcript"], None), name
