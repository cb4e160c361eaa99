"""
React pages with `useChat` of the AI SDK 6 and 7 and each transport, in Chromium, from another origin than the chat's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.interop import test_react_page
from tests.interop.test_react_page import (
    ANSWER,
    Open,
    built,
    chat,
    open_page,
    send,
    site,
    transcript,
    wait_for_end,
    wait_for_streaming,
    wait_until_equal,
)
from tests.servers import Server

__all__ = ["built", "chat", "open_page", "site"]  # fixtures

STOCK = ("ai-sdk-6", "ai-sdk-7", "ai-sdk-6-durable", "ai-sdk-7-durable")
MODULE = ("ai-sdk-6-module", "ai-sdk-7-module")
PICTURE = Path(__file__).parents[2] / "durable_chat" / "web" / "static" / "icon.svg"


def clients(*cases: str) -> pytest.MarkDecorator:
    """Each client, with its cells of the table. The module's transport has no column."""
    stock = [pytest.param(name, marks=pytest.mark.cell(name, *cases)) for name in STOCK]
    return pytest.mark.parametrize("client", [*stock, *MODULE])


def told_by(chat: Server) -> list[dict[str, Any]]:
    """Return the server's messages for pages of the AI SDK."""
    return test_react_page.told_by(chat, "/api/ai-sdk/react/messages")


def shown(page: Page) -> Page:
    expect(page.locator("main")).to_be_visible()
    return page


@clients("send", "stream", "second tab", "reload midway", "stop", "tool")
def test_a_conversation(open_page: Open, chat: Server, client: str) -> None:
    """
    After sending, a tool, a second page, a reload during an answer, a stop and another message, every page has the
    same messages.
    """
    first = shown(open_page(sdk=client))
    send(first, "think, and use a tool")
    wait_for_end(first, 0)
    wait_until_equal(first, told_by(chat))

    send(first, "make it long")
    wait_for_streaming(first, 1)
    second = shown(open_page(sdk=client))
    wait_for_streaming(second, 1)
    first.reload()
    wait_for_streaming(first, 1)
    first.get_by_role("button", name="Stop").click()
    for page in (first, second):
        wait_for_end(page, 1)
        wait_until_equal(page, told_by(chat))

    send(second, "goodbye")
    wait_for_end(second, 2)
    wait_until_equal(second, told_by(chat))
    wait_until_equal(shown(open_page(sdk=client)), told_by(chat))
    roles = [message["role"] for message in transcript(second)]
    assert roles == ["user", "assistant"] * 3
    kinds = {part["type"].partition("-")[0] for message in told_by(chat) for part in message["parts"]}
    assert kinds == {"text", "reasoning", "tool", "step"}
    assert first.get_by_role("alert").count() == second.get_by_role("alert").count() == 0


@clients("approval")
@pytest.mark.parametrize("decision", ["Approve", "Deny"])
def test_an_approval(open_page: Open, chat: Server, client: str, decision: str) -> None:
    """A page that was loaded after the question decides, and the answer continues in the same message."""
    first = shown(open_page(sdk=client))
    send(first, "approve this")
    expect(first.get_by_role("button", name=decision)).to_be_visible()
    second = shown(open_page(sdk=client))
    second.get_by_role("button", name=decision).click()
    state = "output-available" if decision == "Approve" else "output-denied"
    expect(second.locator("code").filter(has_text=state)).to_be_visible()
    wait_for_end(second, 0)
    late = shown(open_page(sdk=client))
    wait_until_equal(late, told_by(chat))
    assert [message["id"] for message in transcript(second)] == [message["id"] for message in transcript(late)]
    assert second.evaluate(ANSWER, 0) == late.evaluate(ANSWER, 0)


@clients("attachment", "error")
def test_an_attachment_and_a_failure(open_page: Open, chat: Server, client: str) -> None:
    """Another page shows the picture too. A failure is shown to the user, and the answer can be requested again."""
    first = shown(open_page(sdk=client, network_fails=client.endswith("-durable")))
    first.get_by_label("Files").set_input_files(PICTURE)
    send(first, "look")
    wait_for_end(first, 0)
    second = shown(open_page(sdk=client))
    for page in (first, second):
        picture = page.locator("img")
        expect(picture).to_be_visible()
        page.wait_for_function("() => document.querySelector('img').naturalWidth > 0")
        assert picture.get_attribute("alt") == PICTURE.name
    send(second, "fail")
    expect(second.get_by_role("alert")).to_be_visible()
    send(second, "hello")
    wait_for_end(second, 2)
    wait_until_equal(second, told_by(chat))


@pytest.mark.parametrize("client", MODULE)
def test_a_killed_server(open_page: Open, chat: Server, client: str) -> None:
    """With the module's transport, a page waits for a killed server and shows its text and how the answer ended."""
    page = shown(open_page(sdk=client, network_fails=True))
    send(page, "make it long")
    wait_for_streaming(page, 0)
    chat.kill()
    before = page.evaluate(ANSWER, 0)
    chat.start()
    expect(page.get_by_role("alert")).to_be_visible()
    assert page.evaluate(ANSWER, 0).startswith(before)
    send(page, "hello")
    wait_for_end(page, 1)
    wait_until_equal(page, told_by(chat))
