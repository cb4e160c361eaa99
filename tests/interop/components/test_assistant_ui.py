"""assistant-ui's `useAgUiRuntime` in Chromium, on `/api/agui`, with the history and the agent of the guide."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from tests.interop.components import growth
from tests.interop.components.conftest import Open, Transcript
from tests.interop.components.threads import idle, say, shown, texts_of, wait_for_growth

NAME = "assistant-ui"
RUNTIME = {"runtime": "ag-ui"}


@pytest.fixture
def page(open_page: Open) -> Page:
    return open_page("assistant-ui", **RUNTIME)


@pytest.mark.cell(NAME, "send", "stream")
def test_send(page: Page, transcript: Transcript) -> None:
    """A message is answered word by word, and the page shows the server's messages."""
    growth.watch(page, '.message[data-role="assistant"]')
    say(page, "please think and say hello")
    idle(page)
    assert growth.grew(page)
    assert shown(page) == texts_of(transcript())
    say(page, "hello again")
    idle(page, answers=2)
    assert shown(page) == texts_of(transcript())


# A slow network: the state of a session arrives a second late.
LATE = """const fetched = window.fetch
window.fetch = async (url, ...rest) => {
    const answer = await fetched(url, ...rest)
    if (String(url).includes('threadId=')) await new Promise(done => setTimeout(done, 1000))
    return answer
}"""


def test_send_on_a_slow_network(page: Page, transcript: Transcript) -> None:
    """The first message, written as soon as the page lets one write, stays on the page when the session arrives late."""
    page.context.add_init_script(LATE)
    page.reload()
    say(page, "hello")
    idle(page)
    assert shown(page) == texts_of(transcript())


@pytest.mark.cell(NAME, "reload midway", "second tab", "stop")
@pytest.mark.parametrize("query", [{}, {"repost": ""}], ids=["resume", "post again"])
def test_reload_watch_and_stop(open_page: Open, transcript: Transcript, query: dict[str, str]) -> None:
    """
    After a reload during an answer, the page shows all of it, and a second tab follows it and stops it for both,
    whether the history resumes or the runtime posts the messages again. There is one answer.
    """
    page = open_page("assistant-ui", **RUNTIME, **query)
    say(page, "please think, use a tool and make it long")
    wait_for_growth(page)
    page.reload()
    wait_for_growth(page)
    second = open_page("assistant-ui", **RUNTIME, **query)
    wait_for_growth(second)
    second.get_by_role("button", name="Stop").click()
    for tab in (page, second):
        idle(tab)
    messages = transcript()
    assert messages[-1]["metadata"]["durableChat"]["run"]["status"] == "stopped"
    assert [message["role"] for message in messages].count("user") == 1
    page.reload()
    idle(page)
    assert shown(page) == texts_of(messages)


@pytest.mark.cell(NAME, "approval")
@pytest.mark.parametrize("reloads", [False, True], ids=["at once", "after a reload"])
@pytest.mark.parametrize(("button", "said"), [("Approve", "The note is saved."), ("Decline", "You did not approve")])
def test_approval(page: Page, transcript: Transcript, button: str, said: str, *, reloads: bool) -> None:
    """A call waits for approval. The answer continues with the decision, and no other answer starts."""
    say(page, "approve this")
    expect(page.get_by_role("button", name="Approve")).to_be_visible()
    idle(page)
    if reloads:
        page.reload()
    page.get_by_role("button", name=button).click()
    expect(page.get_by_text(said)).to_be_visible()
    idle(page)
    expect(page.get_by_role("button", name="Approve")).to_have_count(0)
    messages = transcript()
    assert [message["role"] for message in messages].count("user") == 1
    assert shown(page) == texts_of(messages)


@pytest.mark.parametrize("reloads", [False, True], ids=["at once", "after a reload"])
def test_edit_and_regenerate(page: Page, transcript: Transcript, *, reloads: bool) -> None:
    """
    An edited message replaces the original and everything after it, and an answer can be regenerated, in every tab.
    """
    for at, text in enumerate(("one", "two")):
        say(page, text)
        idle(page, answers=at + 1)
    if reloads:
        page.reload()
        idle(page, answers=2)
    page.get_by_role("button", name="Edit").first.click()
    page.get_by_label("Edit").fill("three")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_text("two", exact=True)).to_have_count(0)
    idle(page)
    messages = transcript()
    assert [message["parts"][0]["content"] for message in messages if message["role"] == "user"] == ["three"]
    answered = messages[-1]["id"]
    page.get_by_role("button", name="Again").last.click()
    page.wait_for_function("id => window.thread.messages.at(-1).id !== id", arg=answered)
    idle(page)
    messages = transcript()
    assert [message["role"] for message in messages] == ["user", "assistant"]
    assert messages[-1]["id"] != answered
    page.reload()
    idle(page)
    assert shown(page) == texts_of(messages)
