"""Tests for both runtimes of assistant-ui, in Chromium."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from tests.interop.components.conftest import Open, Transcript
from tests.interop.components.threads import attach, idle, say, shown, texts_of, wait_for_growth
from tests.servers import Server
from tests.web.tabs import SHOWN_MAX_MS


def runtimes(*cases: str) -> pytest.MarkDecorator:
    """Each runtime, with its cells of the table."""
    named = {"transport": "assistant-transport", "ag-ui": "assistant-ui"}
    made = [pytest.param(name, marks=pytest.mark.cell(client, *cases)) for name, client in named.items()]
    return pytest.mark.parametrize("runtime", made)


@pytest.fixture
def page(open_page: Open, runtime: str) -> Page:
    return open_page("assistant-ui", runtime=runtime)


@pytest.mark.parametrize("runtime", ["transport", "ag-ui"])
def test_server_killed(open_page: Open, chat: Server, transcript: Transcript, runtime: str) -> None:
    """
    When the server is killed during an answer, the page gets an error, and after a reload it shows everything that
    was written.
    """
    page = open_page("assistant-ui", network_fails=True, runtime=runtime)
    say(page, "make it long")
    wait_for_growth(page)
    chat.restart()
    page.wait_for_function("document.body.dataset.error", timeout=SHOWN_MAX_MS)
    page.reload()
    idle(page)
    messages = transcript()
    assert messages[-1]["metadata"]["durableChat"]["run"]["status"] == "interrupted"
    assert shown(page) == texts_of(messages)
    say(page, "hello")
    idle(page, answers=2)
    assert shown(page) == texts_of(transcript())


@runtimes("error")
def test_error(page: Page, transcript: Transcript) -> None:
    """A failed answer is reported to the application and on its message. The next message is answered."""
    say(page, "fail")
    expect(page.get_by_role("alert")).to_be_visible()
    page.wait_for_function("document.body.dataset.error")
    assert "demo model failed" in str(page.evaluate("document.body.dataset.error"))
    idle(page)
    say(page, "hello")
    idle(page, answers=2)
    assert shown(page) == texts_of(transcript())


@runtimes("tool")
def test_tools(page: Page, transcript: Transcript) -> None:
    """
    A server tool shows its result. A page's tool is executed on the page, and the answer continues with its result.
    """
    say(page, "use a tool")
    expect(page.locator('.call[data-name="count_words"][data-done="true"]')).to_be_visible()
    idle(page)
    say(page, 'set_color {"color": "teal"}')
    expect(page.locator('body[data-color="teal"]')).to_be_visible()
    expect(page.get_by_text("`set_color` gave")).to_be_visible()
    idle(page, answers=2)
    assert len([message for message in transcript() if message["role"] == "user"]) == 2
    assert shown(page) == texts_of(transcript())


@runtimes("attachment")
def test_attachment(page: Page) -> None:
    """A picture reaches the model and is shown again after a reload."""
    attach(page)
    say(page, "look")
    expect(page.get_by_text("You attached")).to_be_visible()
    idle(page)
    page.reload()
    expect(page.locator('.message[data-role="user"] img')).to_be_visible()
    assert page.evaluate("document.querySelector('img').naturalWidth > 0")
