"""The page in Chromium on arbitrary logs: a part that cannot be shown does not affect the rest."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.servers import Server
from tests.web.tabs import Tabs, address, answer, append, said, session_of

ARBITRARY = Path(__file__).parent / "arbitrary.mjs"
LOGS = 300

BAD_PARTS: list[Any] = [
    {"type": "toString"},
    {"type": "__proto__"},
    {"type": "constructor"},
    {"type": "thinking", "content": 5},
    {"type": "text", "content": {"toString": 1}},
    {"type": []},
    {"type": "image", "source": []},
    {"type": "tool-call", "id": []},
    None,
    7,
    [],
]
ODD_PARTS: list[Any] = [
    {"type": "tool-call", "id": "__proto__", "name": {"toString": None}, "arguments": [], "state": "constructor"},
    {"type": "tool-call", "id": "c", "name": "f", "state": [], "approval": 5, "input": {"valueOf": 1}},
    {"type": "structured-output", "raw": "x", "data": [None]},
    {"type": "document", "source": {"type": "data", "value": "%%%", "mimeType": 5}},
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all tests. Each test has its own session."""
    server = Server(
        tmp_path_factory.mktemp("robust"), {"DURABLE_CHAT_MODEL": "demo", "DURABLE_CHAT_STORE": "memory://"}
    )
    server.start()
    yield server
    server.kill()


def snapshot_of(*parts: Any, role: Any = "assistant", message_id: Any = "bad") -> dict[str, Any]:
    message = {"id": message_id, "role": role, "parts": [{"type": "text", "content": "before"}, *parts]}
    return {"type": "MESSAGES_SNAPSHOT", "messages": [None, 5, [], message]}


@pytest.mark.parametrize("part", BAD_PARTS, ids=str)
def test_a_bad_part_is_contained(server: Server, tabs: Tabs, part: Any) -> None:
    """In every tab, a part that cannot be shown says so, and the parts around it and later answers are shown."""
    first = tabs.open(server.url)
    second = tabs.open(address(server, session_of(first)))
    append(server, session_of(first), snapshot_of(part, {"type": "text", "content": "after"}))
    append(server, session_of(first), *said("next", "and **on** it goes"))
    for tab in (first, second):
        expect(tab.locator(".message.assistant").first.locator(".body")).to_have_text(
            "beforeThis part cannot be shownafter"
        )
        expect(answer(tab)).to_have_text("and on it goes")


def test_odd_values_are_shown_as_far_as_they_go(server: Server, tabs: Tabs) -> None:
    """A tool, a file or data with invalid fields is drawn without these fields."""
    page = tabs.open(server.url)
    append(server, session_of(page), snapshot_of(*ODD_PARTS, role=["user"], message_id={}))
    expect(page.locator(".tool")).to_have_count(2)
    expect(page.get_by_text("before")).to_be_visible()
    append(server, session_of(page), *said("next", "and on it goes"))
    expect(answer(page)).to_have_text("and on it goes")


def test_chunks_that_are_none_stop_no_tab(server: Server, tabs: Tabs) -> None:
    """With any invalid data in the log between two answers, every tab shows both answers."""
    first = tabs.open(server.url)
    second = tabs.open(address(server, session_of(first)))
    chunks: list[Any] = [
        None,
        [[]],
        5,
        "RUN_STARTED",
        {"type": {"toString": 1}},
        {"type": "toString"},
        {"type": "CUSTOM", "name": "constructor", "value": None},
        {
            "type": "CUSTOM",
            "name": "durable-chat.turn-queued",
            "value": {"message": {"id": "__proto__", "role": "user", "parts": 5}},
        },
        {"type": "TEXT_MESSAGE_START", "messageId": {}, "role": []},
        {"type": "TEXT_MESSAGE_CONTENT", "messageId": "toString", "delta": {"toString": 1}},
        {"type": "RUN_STARTED", "runId": []},
        {"type": "RUN_ERROR", "message": {}, "error": 5},
        {"type": "TOOL_CALL_START", "toolCallId": [], "toolCallName": {}},
        {"type": "MESSAGES_SNAPSHOT", "messages": 5},
        {"type": "RUN_FINISHED", "runId": "toString", "metadata": {"tanstack": 5}},
    ]
    append(server, session_of(first), *said("one", "the first answer"))
    expect(answer(second)).to_have_text("the first answer")
    append(server, session_of(first), *chunks)
    append(server, session_of(first), *said("two", "the second answer"))
    for tab in (first, second):
        expect(answer(tab)).to_have_text("the second answer")


def serve_arbitrary(page: Page) -> None:
    page.route("**/static/arbitrary.js", lambda route: route.fulfill(path=ARBITRARY, content_type="text/javascript"))


def test_anything_is_drawn(server: Server, tabs: Tabs) -> None:
    """For any log, drawing does not throw, and every message has its element."""
    page = tabs.open(server.url)
    serve_arbitrary(page)
    script = """async (logs) => {
        const at = (name) => new URL(`static/${name}`, document.baseURI).href;
        const { chunk, random } = await import(at('arbitrary.js'));
        const { Fold } = await import(at('fold.js'));
        const { Transcript } = await import(at('messages.js'));
        const made = (tag) => document.body.appendChild(document.createElement(tag));
        const [box, list, toEnd] = [made('div'), made('div'), made('button')];
        const transcript = new Transcript({ box, list, toEnd, act: { file: () => null } });
        for (let seed = 1; seed <= logs; seed++) {
            const next = random(seed);
            const fold = new Fold();
            transcript.clear();
            for (let i = 0; i < 40; i++) {
                fold.apply(chunk(next));
                const items = fold.messages.map((message) => ({ message, status: { live: message === fold.current } }));
                transcript.paint(items, fold.touched);
                fold.touched.clear();
                if (list.childElementCount !== items.length) return `seed ${seed}, chunk ${i}`;
            }
        }
        return 'all drawn';
    }"""
    assert page.evaluate(script, LOGS) == "all drawn"
