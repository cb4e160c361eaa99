"""A chat with only `fetch`, as docs/reference/routes.md describes it for clients."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Serve
from tests.interop.playing import Facts, play
from tests.interop.test_files import APP, PNG, part
from tests.servers import Process, Server, start_app


@pytest.fixture
def slow(serve: Serve) -> Server:
    """A server slow enough to act during an answer."""
    return serve(DURABLE_CHAT_DEMO_DELAY_MS="20")


def run(server: Process, scenario: str, **options: Any) -> Facts:
    facts: Facts = play("plain.mjs", scenario, base=server.url, session="plain", **options)
    return facts


def said(message: Facts) -> str:
    return "".join(part["content"] for part in message["parts"] if part["type"] == "text")


@pytest.mark.cell("fetch", "send", "stream", "second tab")
def test_conversation(slow: Server) -> None:
    """The answer arrives in pieces, is the same for two readers, and equals the snapshot."""
    facts = run(slow, "conversation", text="hello")
    assert facts["pieces"] > 3
    assert facts["second"] == facts["chunks"]
    assert facts["text"] == said(facts["messages"][-1]) != ""


@pytest.mark.cell("fetch", "drop and resume")
def test_drops(slow: Server) -> None:
    """A reader that is cut off every few chunks and resumes by offset gets each chunk once and in order."""
    facts = run(slow, "drops", text="think and use a tool")
    assert facts["count"] > 3
    assert facts["chunks"] == facts["whole"]


@pytest.mark.cell("fetch", "reload midway")
def test_reload_midway(slow: Server) -> None:
    """The snapshot ends before the answer, and its offset is the answer's beginning."""
    facts = run(slow, "reload", text="hello")
    assert [message["role"] for message in facts["midway"]["messages"]] == ["user"]
    assert facts["first"]["type"] == "RUN_STARTED"
    assert facts["text"] == said(facts["messages"][-1])


@pytest.mark.cell("fetch", "stop")
def test_stop(slow: Server) -> None:
    """A stop ends the answer for the reader once, without an error."""
    facts = run(slow, "stop", text="long")
    end = facts["chunks"][-1]
    assert facts["stopped"] == [end["runId"]]
    assert (end["type"], end["metadata"]["tanstack"]["stopped"]) == ("RUN_FINISHED", True)
    assert facts["again"] == {"stopped": []}


@pytest.mark.cell("fetch", "error")
def test_error(slow: Server) -> None:
    """A failed answer ends with one RUN_ERROR after the written text."""
    facts = run(slow, "conversation", text="fail")
    (error,) = [chunk for chunk in facts["chunks"] if chunk["type"] == "RUN_ERROR"]
    assert error == facts["chunks"][-1]
    assert error["message"]
    assert facts["text"]


@pytest.mark.cell("fetch", "tool")
def test_tool(slow: Server) -> None:
    """A call arrives as its start, its arguments, its end and its result."""
    kinds = [chunk["type"] for chunk in run(slow, "conversation", text="tool")["chunks"]]
    steps = ["TOOL_CALL_START", "TOOL_CALL_ARGS", "TOOL_CALL_END", "TOOL_CALL_RESULT"]
    assert [kind for kind in dict.fromkeys(kinds) if kind in steps] == steps


@pytest.mark.cell("fetch", "approval")
@pytest.mark.parametrize("approved", [True, False], ids=["approved", "denied"])
def test_approval(slow: Server, approved: bool) -> None:
    """The call waits, the decision in the posted message settles it, and the model continues."""
    facts = run(slow, "approval", text="approve this", approved=approved)
    assert (facts["asked"]["state"], facts["status"]) == ("approval-requested", 202)
    calls = [part for message in facts["messages"] for part in message["parts"] if part["type"] == "tool-call"]
    assert [call["state"] for call in calls] == ["complete" if approved else "error"]


@pytest.mark.cell("fetch", "attachment")
def test_attachment(tmp_path: Path, processes: list[Process]) -> None:
    """The model gets the file in the message."""
    app = start_app(tmp_path / "app", APP, processes)
    data = PNG[:20_000]
    facts = run(app, "attachment", text="look", part=part("image", "image/png", data))
    assert facts["text"] == f"image {hashlib.sha256(data).hexdigest()} "
