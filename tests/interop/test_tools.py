"""Client tools and approvals with the real TanStack client: several tabs, one continuation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.interop.playing import Facts, play
from tests.servers import Process, Server, start_app

# The demo model calls every tool whose name is in the message.
APP = """
from durable_chat import DurableChat, Settings

chat = DurableChat(settings=Settings(model="demo", demo_delay_ms=5), protocol=True, page=False)
chat.client_tool("locate", description="Where the user is.")
"""


@pytest.fixture
def app(tmp_path: Path, processes: list[Process]) -> Process:
    return start_app(tmp_path / "app", APP, processes)


def run(server: Process, scenario: str, client: str, **options: Any) -> Facts:
    facts: Facts = play("tools.mjs", scenario, base=server.url, session="tools", client=client, **options)
    return facts


def parts(messages: list[Facts], kind: str) -> list[Facts]:
    return [part for message in messages for part in message["parts"] if part["type"] == kind]


def said(messages: list[Facts]) -> str:
    return "".join(part["content"] for part in parts(messages, "text"))


def runs_with_words(log: list[Facts]) -> int:
    """Count the runs in the log that have a message. A run that only releases a tab has none."""
    count, words = 0, False
    for chunk in log:
        if chunk["type"] == "RUN_STARTED":
            words = False
        words = words or (chunk["type"] == "TEXT_MESSAGE_START" and chunk["role"] == "assistant")
        count += chunk["type"] in ("RUN_FINISHED", "RUN_ERROR") and words
    return count


@pytest.mark.parametrize("fails", [False, True], ids=["works", "fails"])
def test_a_clients_tool_runs_in_two_tabs(app: Process, client: str, fails: bool) -> None:
    """Two tabs execute the tool, the log has one result, the model continues once, and no tab hangs."""
    facts = run(app, "everywhere", client, sent="locate me", last="hello", tool="locate", fails=fails)
    assert sorted(facts["runs"]) == ["sender", "watcher"]
    before = facts["before"]["transcript"]
    (result,) = parts(before, "tool-result")
    assert result["state"] == ("error" if fails else "complete")
    assert said(before).count("`locate` failed" if fails else "`locate` gave") == 1
    assert facts["after"]["transcript"][: len(before)] == before
    assert runs_with_words(facts["log"]) == 3, "the question, the continuation, and the message after them"
    for name, tab in facts["after"]["tabs"].items():
        assert (tab["errors"], tab["loading"], tab["subscribed"]) == ([], False, True), name


@pytest.mark.cell("tanstack-durable", "approval")
@pytest.mark.parametrize("by", ["sender", "watcher", "later"])
@pytest.mark.parametrize("approved", [True, False], ids=["approved", "denied"])
def test_an_approval_from_any_tab(server: Server, client: str, by: str, approved: bool) -> None:
    """Whichever tab decides, every tab shows the decision, its result and the text after it, and none hangs."""
    facts = run(server, "approval", client, sent="approve this", last="hello", by=by, approved=approved, both=False)
    (asked,) = parts(facts["asked"]["transcript"], "tool-call")
    assert asked["state"] == "approval-requested"
    done = facts["done"]["transcript"]
    (call,) = parts(done, "tool-call")
    assert (call["approval"]["approved"], call["state"]) == (approved, "complete" if approved else "error")
    assert ("The note is saved." in said(done), "did not approve" in said(done)) == (approved, not approved)
    assert facts["after"]["transcript"][: len(done)] == done
    assert runs_with_words(facts["log"]) == 3
    for name, tab in facts["after"]["tabs"].items():
        assert (tab["errors"], tab["loading"], tab["subscribed"]) == ([], False, True), name


@pytest.mark.parametrize("by", ["sender", "watcher"])
def test_two_tabs_answer_at_once(server: Server, client: str, by: str) -> None:
    """When two tabs decide differently, the first decision counts in every tab, and the other tab is released."""
    facts = run(server, "approval", client, sent="approve this", last="hello", by=by, approved=True, both=True)
    done = facts["done"]["transcript"]
    (call,) = parts(done, "tool-call")
    assert call["state"] == ("complete" if call["approval"]["approved"] else "error")
    assert runs_with_words(facts["log"]) == 3
