"""assistant-ui's `useAssistantTransportRuntime` in Chromium: the page of its guide, with this server as its backend."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from tests.interop.components import growth
from tests.interop.components.conftest import Open, Transcript
from tests.interop.components.threads import (
    answer,
    idle,
    say,
    shown,
    texts_of,
    wait_for_growth,
)

NAME = "assistant-transport"


@pytest.fixture
def page(open_page: Open) -> Page:
    return open_page("assistant-ui", runtime="transport")


@pytest.mark.cell(NAME, "send", "stream")
def test_send(page: Page, transcript: Transcript) -> None:
    """A message is answered word by word, and the page shows the server's messages."""
    growth.watch(page, '.message[data-role="assistant"]')
    say(page, "hello")
    idle(page)
    assert growth.grew(page)
    assert shown(page) == texts_of(transcript())
    say(page, "hello again")
    idle(page, answers=2)
    assert shown(page) == texts_of(transcript())


@pytest.mark.cell(NAME, "reload midway", "second tab", "stop")
def test_reload_watch_and_stop(page: Page, open_page: Open, transcript: Transcript) -> None:
    """After a reload during an answer, the page shows all of it. A second tab follows it and stops it for both."""
    say(page, "please think, use a tool and make it long")
    wait_for_growth(page)
    page.reload()
    wait_for_growth(page)
    second = open_page("assistant-ui", runtime="transport")
    wait_for_growth(second)
    second.get_by_role("button", name="Stop").click()
    for tab in (page, second):
        idle(tab)
    messages = transcript()
    assert messages[-1]["metadata"]["durableChat"]["run"]["status"] == "stopped"
    assert shown(page) == texts_of(messages)
    second.reload()
    expect(answer(second)).to_be_visible()
    assert shown(second) == texts_of(messages)


@pytest.mark.cell(NAME, "approval")
@pytest.mark.parametrize(("button", "said"), [("Approve", "The note is saved."), ("Decline", "You did not approve")])
def test_approval(page: Page, open_page: Open, button: str, said: str) -> None:
    """A call waits for approval, also after a reload. The answer continues with the decision in every tab."""
    say(page, "approve this")
    expect(page.get_by_role("button", name="Approve")).to_be_visible()
    idle(page)
    page.reload()
    page.get_by_role("button", name=button).click()
    expect(page.get_by_text(said)).to_be_visible()
    idle(page)
    expect(page.get_by_role("button", name="Approve")).to_have_count(0)
    expect(open_page("assistant-ui", runtime="transport").get_by_text(said)).to_be_visible()


def test_edit(page: Page, transcript: Transcript) -> None:
    """An edited message replaces the original and everything after it, in every tab."""
    for at, text in enumerate(("one", "two")):
        say(page, text)
        idle(page, answers=at + 1)
    page.get_by_role("button", name="Edit").first.click()
    page.get_by_label("Edit").fill("three")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_text("two", exact=True)).to_have_count(0)  # until then, the page may be idle
    idle(page, answers=1)
    messages = transcript()
    assert [message["parts"][0]["content"] for message in messages if message["role"] == "user"] == ["three"]
    assert shown(page) == texts_of(messages)
