"""
The real TanStack client (`ChatClient` on `durableStreamConnection`) in several tabs of one session.

Each scenario of clients/chat.mjs runs real tabs against a real server process and reports what every tab shows. These
tests check the reports. The scenarios do not depend on the client's version, which is a parameter here.
"""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.conftest import Serve, ServeNpm
from tests.interop.playing import CLIENTS, Facts, play
from tests.servers import Server

# A session id with every character that must be encoded.
SESSION = "a session/with %2F, ü and ?&#"
# An answer has about 110 deltas. At this pace, new tabs can join during it, also on a busy machine.
SLOW = {"DURABLE_CHAT_DEMO_DELAY_MS": "30"}


@pytest.fixture
def slow_chat(serve: Serve) -> Server:
    return serve(**SLOW)


def run(server: Server, scenario: str, client: str, **options: Any) -> Facts:
    facts: Facts = play("chat.mjs", scenario, base=server.url, session=SESSION, client=client, **options)
    return facts


def assert_one_story(picture: Facts) -> list[Facts]:
    """
    Check that every tab and the snapshot have the same messages and no answer is running, and return those messages.
    """
    told: list[Facts] = picture["snapshot"]["transcript"]
    assert picture["snapshot"]["activeRun"] is None
    for name, tab in picture["tabs"].items():
        assert tab["transcript"] == told, f"{name} shows something else than the snapshot"
        assert (tab["generating"], tab["loading"], tab["subscribed"]) == (False, False, True), name
    ids = [message["id"] for message in told]
    assert len(set(ids)) == len(ids)
    return told


def assert_told_right(tab: Facts, turns: int, failed: int = 0) -> None:
    """Check that a tab's client reported the beginning and end of each run, and the finish of each once."""
    assert (tab["runs"], tab["terminals"]) == (turns, turns)
    assert tab["generations"] == [True, False] * turns
    assert (tab["finished"], len(tab["errors"])) == (turns - failed, failed)
    assert tab["status"] == "ready"


def user_texts(messages: list[Facts]) -> list[str]:
    return [part["content"] for message in messages if message["role"] == "user" for part in message["parts"]]


def parts(messages: list[Facts], kind: str) -> list[Facts]:
    return [part for message in messages for part in message["parts"] if part["type"] == kind]


def answers(messages: list[Facts]) -> list[str]:
    """Return the text of the answer to each user message."""
    texts: list[str] = []
    for message in messages:
        if message["role"] == "user":
            texts.append("")
        else:
            texts[-1] += "".join(part["content"] for part in message["parts"] if part["type"] == "text")
    return texts


@pytest.mark.cell("tanstack-durable", "send", "second tab", "tool")
@pytest.mark.parametrize(
    "texts",
    [["hello", "and a second question"], ["please think", "tool"], ["tool", "think and use a tool"]],
    ids=["text", "think-tool", "tool-both"],
)
def test_conversation(server: Server, client: str, texts: list[str]) -> None:
    """
    The sender, a watching tab and tabs that join later have the same messages, before and after one of the latter
    sends too.
    """
    words = " ".join(texts).split()
    facts = run(server, "conversation", client, texts=texts, last="goodbye")
    before = assert_one_story(facts["before"])
    assert user_texts(before) == texts
    assert all(answers(before))

    after = assert_one_story(facts["after"])
    assert after[: len(before)] == before
    assert user_texts(after) == [*texts, "goodbye"]
    assert all(answers(after))
    assert len(parts(after, "thinking")) == words.count("think")
    assert len(parts(after, "tool-call")) == len(parts(after, "tool-result")) == words.count("tool")
    assert {part["state"] for part in parts(after, "tool-call")} <= {"complete"}
    for name, tab in facts["after"]["tabs"].items():
        assert (tab["errors"], tab["error"]) == ([], None), name
        assert_told_right(tab, len(texts) + 1 if name in ("sender", "watcher") else 1)


@pytest.mark.parametrize("snapshots", ["0", "65536"])
def test_conversation_over_the_models_limit(serve: Serve, client: str, snapshots: str) -> None:
    """A summary for the model's context changes nothing that any tab shows, whether turns begin with echoes or not."""
    settings = {"DURABLE_CHAT_CONTEXT_TOKENS": "500", "DURABLE_CHAT_TURN_SNAPSHOT_MAX_BYTES": snapshots}
    server = serve(**settings)
    texts = ["hello", "again", "a third message", "a fourth one", "and a fifth"]
    facts = run(server, "conversation", client, texts=texts, last="goodbye", echoes=snapshots == "0")
    before = assert_one_story(facts["before"])
    after = assert_one_story(facts["after"])
    assert after[: len(before)] == before
    assert user_texts(after) == [*texts, "goodbye"]
    assert all(answers(after))
    for name, tab in facts["after"]["tabs"].items():
        assert tab["errors"] == [], name
    state = httpx.get(f"{server.url}/api/chat-snapshot", params={"id": SESSION}, timeout=20).json()
    assert "failure" not in state["contextSummary"]


def test_conversation_of_a_long_session(serve: Serve, client: str) -> None:
    """
    When turns begin with an echo, all tabs also have the same messages, and every tab knows when the session is
    generating.
    """
    server = serve(DURABLE_CHAT_TURN_SNAPSHOT_MAX_BYTES="0")
    texts = ["tool", "hello", "think and use a tool"]
    facts = run(server, "conversation", client, texts=texts, last="goodbye", echoes=True)
    before = assert_one_story(facts["before"])
    after = assert_one_story(facts["after"])
    assert after[: len(before)] == before
    assert user_texts(after) == [*texts, "goodbye"]
    assert all(answers(after))
    for name, tab in facts["after"]["tabs"].items():
        turns = len(texts) + 1 if name in ("sender", "watcher") else 1
        assert tab["generations"] == [True, False] * turns, name
        assert tab["errors"] == [], name


def test_tab_before_the_session(server: Server, client: str) -> None:
    """A tab that opened before the first message, without a snapshot or with the empty one, gets the message live."""
    facts = run(server, "early", client, text="hello")
    snapshot = facts["before"]["snapshot"]
    assert (snapshot["messages"], snapshot["activeRun"]) == ([], None)
    assert facts["before"]["waiting"]["errors"] == []
    messages = assert_one_story(facts["after"])
    assert user_texts(messages) == ["hello"]
    for tab in facts["after"]["tabs"].values():
        assert_told_right(tab, 1)


@pytest.mark.cell("tanstack-durable", "stream", "reload midway")
@pytest.mark.parametrize("text", ["hello", "please think and use a tool"], ids=["text", "think-tool"])
def test_reload_midway(slow_chat: Server, client: str, text: str) -> None:
    """Tabs that join during an answer see it grow from its beginning, and end with the sender's messages."""
    facts = run(slow_chat, "reload", client, texts=[text], stop=False)
    assert facts["midway"]["activeRun"]["runId"]
    assert facts["helped"] == {"sameOffset": True, "transcript": facts["midway"]["snapshot"]}
    assert user_texts(facts["midway"]["snapshot"]) == [text], "the message that is being answered is there"
    messages = assert_one_story(facts["after"])
    assert messages[: len(facts["midway"]["snapshot"])] == facts["midway"]["snapshot"]
    assert user_texts(messages) == [text]
    for tab in facts["after"]["tabs"].values():
        assert_told_right(tab, 1)


@pytest.mark.parametrize("text", ["hello", "please think and use a tool", "think, use a tool and fail"])
def test_reload_at_any_moment(slow_chat: Server, client: str, text: str) -> None:
    """A tab that joins at any point of an answer ends with the same messages and the same reports."""
    facts = run(slow_chat, "moments", client, text=text)
    assert {"RUN_STARTED", "TEXT_MESSAGE_CONTENT"} < set(facts["kinds"])
    assert_one_story(facts["after"])
    for name, tab in facts["after"]["tabs"].items():
        assert tab["generations"] == [True, False] * tab["runs"], name
        ends = (0, tab["runs"]) if "fail" in text else (tab["runs"], 0)
        assert (tab["finished"], len(tab["errors"])) == ends, name
        assert (tab["status"] == "error") == bool(tab["errors"]), name


def test_reload_of_a_stopped_answer(server: Server, client: str) -> None:
    """The same holds for an answer that is stopped while all tabs watch."""
    facts = run(server, "reload", client, texts=["hello", "long"], stop=True)
    assert facts["stopped"]["stopped"] == [facts["midway"]["activeRun"]["runId"]]
    assert all(answers(assert_one_story(facts["after"])))
    for name, tab in facts["after"]["tabs"].items():
        assert_told_right(tab, 2 if name == "sender" else 1)


@pytest.mark.cell("tanstack-durable", "error")
def test_model_fails(server: Server, client: str) -> None:
    """Every tab learns that the model failed, none hangs, the partial text stays, and the next turn works."""
    facts = run(server, "failure", client, texts=["fail", "hello"])
    failed = assert_one_story(facts["failed"])
    for name, tab in facts["failed"]["tabs"].items():
        assert tab["error"], name
        assert (tab["status"], len(tab["errors"])) == ("error", 1), name
    assert len({tab["error"] for tab in facts["failed"]["tabs"].values()}) == 1
    assert all(answers(failed)), "what was shown before the failure is kept"

    after = assert_one_story(facts["after"])
    assert after[: len(failed)] == failed
    assert user_texts(after) == ["fail", "hello"]
    for tab in facts["after"]["tabs"].values():
        assert_told_right(tab, 2, failed=1)


@pytest.mark.cell("tanstack-durable", "stop")
def test_stop_from_elsewhere(server: Server, client: str) -> None:
    """A stop releases the sender, keeps the shown text, is no error in any tab, and may be repeated."""
    facts = run(server, "stopping", client, texts=["long", "hello"])
    assert len(facts["first"]["stopped"]) == 1
    assert facts["second"]["stopped"] == []
    stopped = assert_one_story(facts["stopped"])
    for shown in facts["shown"].values():
        assert answers(stopped)[0].startswith(shown)
    after = assert_one_story(facts["after"])
    assert after[: len(stopped)] == stopped
    assert user_texts(after) == ["long", "hello"]
    for tab in facts["after"]["tabs"].values():
        assert_told_right(tab, 2)


def test_sender_leaves(server: Server, client: str) -> None:
    """When the sender disconnects, the answer continues: tabs that watch or return get all of it."""
    facts = run(server, "leaving", client, text="hello")
    messages = assert_one_story(facts["after"])
    assert len(answers(messages)[0]) > len(facts["shown"])


@pytest.mark.parametrize("first", ["hello", "think and use a tool"])
def test_two_senders(server: Server, client: str, first: str) -> None:
    """When a second tab sends during the first tab's answer, both are released, and both turns are complete."""
    facts = run(server, "together", client, texts=[first, "me too"])
    messages = assert_one_story(facts["after"])
    assert user_texts(messages) == [first, "me too"]
    assert all(answers(messages))


@pytest.mark.parametrize("length", [20_000, 5_000_000])
def test_refused_message(serve: Serve, client: str, length: int) -> None:
    """
    A message over the limit shows the server's error in the sending tab and writes nothing, and the session still
    works.
    """
    server = serve(DURABLE_CHAT_BODY_MAX_BYTES="10000")
    facts = run(server, "refusal", client, length=length, text="hello")
    refused = facts["refused"]
    assert refused["snapshot"] == {"transcript": [], "activeRun": None}
    sender = refused["tabs"]["sender"]
    assert (sender["status"], sender["loading"], sender["subscribed"]) == ("error", False, True)
    assert "HTTP error" not in sender["error"], "the client found the sentence in the answer"
    assert user_texts(assert_one_story(facts["after"])) == ["hello"]


@pytest.fixture
def remote_chat(serve: Serve, serve_npm: ServeNpm) -> Server:
    """A server that stores its sessions on npm's reference server instead of in a database."""
    upstream = serve_npm()
    return serve(DURABLE_CHAT_STORE=f"{upstream.url}/v1/stream/chats")


def test_conversation_on_a_remote_store(remote_chat: Server) -> None:
    """On a remote store, all tabs also have the same messages."""
    texts = ["hello", "think and use a tool"]
    facts = run(remote_chat, "conversation", CLIENTS[0], texts=texts, last="goodbye")
    before = assert_one_story(facts["before"])
    after = assert_one_story(facts["after"])
    assert after[: len(before)] == before
    assert user_texts(after) == [*texts, "goodbye"]


def test_early_tab_on_a_remote_store(remote_chat: Server) -> None:
    """A tab that opened before the session existed gets the first message live."""
    early = run(remote_chat, "early", CLIENTS[0], text="hello")
    assert user_texts(assert_one_story(early["after"])) == ["hello"]


def test_reload_and_stop_on_a_remote_store(remote_chat: Server) -> None:
    """A tab that joins during an answer sees it from its beginning, and a stop ends it in every tab."""
    facts = run(remote_chat, "reload", CLIENTS[0], texts=["hello", "long"], stop=True)
    assert facts["midway"]["activeRun"]["runId"]
    assert facts["stopped"]["stopped"] == [facts["midway"]["activeRun"]["runId"]]
    assert all(answers(assert_one_story(facts["after"])))
