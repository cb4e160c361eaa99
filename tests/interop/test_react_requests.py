"""The React page with TanStack's request-scoped connections, in Chromium, from another origin than the chat's."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from tests.interop.test_react_page import (
    Open,
    built,
    chat,
    open_page,
    send,
    site,
    told_by,
    transcript,
    wait_for_end,
    wait_for_streaming,
    wait_until_equal,
)
from tests.servers import Server

__all__ = ["built", "chat", "open_page", "site"]  # fixtures

kinds = pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, marks=pytest.mark.cell(f"tanstack-{kind}", "send", "stream")) for kind in ("sse", "ndjson")],
)


@kinds
def test_a_conversation(open_page: Open, chat: Server, kind: str) -> None:
    """
    `useChat` sends and streams unchanged, a page with the durable connection watches, and all show the same messages.
    """
    sender, watcher = open_page(request=kind, plain=""), open_page(plain="")
    for page in (sender, watcher):
        expect(page.locator("main")).to_be_visible()
    send(sender, "think, and use a tool")
    wait_for_streaming(watcher, 0)
    for page in (sender, watcher):
        wait_for_end(page, 0)
        wait_until_equal(page, told_by(chat))
    send(watcher, "hello from the other page")
    wait_for_end(watcher, 1)
    late = open_page(request=kind)
    expect(late.locator("main")).to_be_visible()
    wait_until_equal(late, told_by(chat))
    send(late, "goodbye")
    wait_for_end(late, 2)
    wait_until_equal(late, told_by(chat))
    assert len([message for message in transcript(late) if message["role"] == "user"]) == 3


@kinds
def test_a_stop(open_page: Open, chat: Server, kind: str) -> None:
    """The connection of the module stops the answer on the server, and no page shows an error."""
    sender, watcher = open_page(request=kind, plain="", module=""), open_page(plain="")
    for page in (sender, watcher):
        expect(page.locator("main")).to_be_visible()
    send(sender, "make it long")
    wait_for_streaming(sender, 0)
    sender.get_by_role("button", name="Stop").click()
    for page in (sender, watcher):
        wait_for_end(page, 0)
        expect(page.get_by_role("alert")).to_have_count(0)
        wait_until_equal(page, told_by(chat))


def test_an_approval(open_page: Open, chat: Server) -> None:
    """A person approves a call on the page, and the answer goes on."""
    page = open_page(request="sse", plain="")
    expect(page.locator("main")).to_be_visible()
    send(page, "approve this")
    page.get_by_role("button", name="Approve").click()
    expect(page.get_by_text("The note is saved.")).to_be_visible()
    wait_until_equal(page, told_by(chat))
