"""The page in Chromium on a real server: what a person does, and what the screen then shows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.conftest import Serve
from tests.proxies import proxied
from tests.servers import Process, Server, start_app
from tests.web.tabs import (
    LONG,
    MEDIUM,
    Tabs,
    answer,
    answers,
    append,
    begins_with,
    error,
    failing_once,
    finish,
    said,
    session_of,
    shown,
    snapshot,
    state,
    told,
    try_again,
    wait_done,
    wait_longer,
    write,
)

# A program's own error.
FAILURE = 'RuntimeError("internals that nobody should see")'


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all tests that need no settings of their own and do not harm it. Answers take 0.2 s."""
    settings = {"DURABLE_CHAT_MODEL": "demo", "DURABLE_CHAT_DEMO_DELAY_MS": "2", "DURABLE_CHAT_STORE": "memory://"}
    server = Server(tmp_path_factory.mktemp("quick"), settings)
    server.start()
    yield server
    server.kill()


# One tab.


def test_answer_streams_in(unfinished: Process, tabs: Tabs) -> None:
    """A sent message is shown at once, its answer grows on the screen, and at the end it is complete."""
    server = unfinished
    page = tabs.open(server.url)
    expect(page.get_by_text("What would you like to know?")).to_be_visible()
    write(page, "hello there")
    expect(page.locator(".message.user .body")).to_have_text("hello there")
    first = wait_longer(page, 0)
    second = wait_longer(page, len(first))
    expect(page.locator("#stop")).to_be_visible()
    assert begins_with(second, first)
    finish(server)
    final = wait_done(page)
    assert begins_with(final, second) and len(final) > len(second)
    assert final == told(server, session_of(page))
    expect(answers(page)).to_have_count(1)


def test_reload_midway(unfinished: Process, tabs: Tabs) -> None:
    """A page that is reloaded during an answer shows the text so far, continues, and is complete at the end."""
    server = unfinished
    page = tabs.open(server.url)
    write(page, "hello")
    before = wait_longer(page, 10)
    assert snapshot(server, session_of(page))["activeRun"] is not None
    page.reload()
    after = wait_longer(page, len(before))
    assert begins_with(after, before)
    finish(server)
    final = wait_done(page)
    assert begins_with(final, after)
    assert final == told(server, session_of(page))
    expect(page.locator(".message")).to_have_count(2)


def test_new_tab_is_live(unfinished: Process, tabs: Tabs) -> None:
    """A second device that opens the address during an answer shows the same, then and at the end."""
    server = unfinished
    first = tabs.open(server.url)
    write(first, "hello")
    wait_longer(first, 5)
    second = tabs.open(first.url)
    seen = wait_longer(second, 0)
    assert len(wait_longer(second, len(seen))) > len(seen)
    finish(server)
    assert wait_done(first) == wait_done(second) == told(server, session_of(first))
    expect(second.locator(".message.user")).to_contain_text("hello")


def test_waiting_tab_is_live(server: Server, tabs: Tabs) -> None:
    """A tab of an empty chat shows the first message when another tab sends it."""
    first = tabs.open(server.url)
    second = tabs.open(first.url)
    write(first, "hello from over here")
    expect(second.locator(".message.user")).to_contain_text("hello from over here")
    assert wait_done(first) == wait_done(second)


def test_stop_from_another_tab(serve: Serve, tabs: Tabs) -> None:
    """An answer stopped in one tab ends in both, shows that it was stopped, and keeps its text."""
    server = serve(**LONG)
    first = tabs.open(server.url)
    write(first, "a long one")
    second = tabs.open(first.url)
    before = wait_longer(first, 10)
    wait_longer(second, 10)
    second.get_by_role("button", name="Stop").click()
    final = wait_done(first)
    assert begins_with(final, before)
    assert final == wait_done(second) == told(server, session_of(first))
    for page in (first, second):
        expect(answers(page).get_by_text("Stopped", exact=True)).to_be_visible()


def test_sent_midway(unfinished: Process, tabs: Tabs) -> None:
    """A message sent during an answer waits visibly, and is answered afterwards."""
    page = tabs.open(unfinished.url)
    write(page, "the first")
    wait_longer(page, 5)
    write(page, "the second")
    expect(page.get_by_text("Waits until the answer above is done")).to_be_visible()
    finish(unfinished)
    expect(answers(page)).to_have_count(2)
    wait_done(page)
    bodies = page.locator(".message .body").all_inner_texts()
    assert (bodies[0], bodies[2]) == ("the first", "the second")
    assert "word5" in bodies[1] and "word0" in bodies[3]


# The connection.


def test_server_killed_midway(serve: Serve, tabs: Tabs) -> None:
    """After a kill and a restart, the server has every word that was shown, and the page reconnects by itself."""
    tabs.network_fails = True
    server = serve(**LONG)
    page = tabs.open(server.url)
    write(page, "a long one")
    seen = wait_longer(page, 20)
    server.kill()
    expect(state(page)).not_to_have_attribute("data-state", "live")
    before = shown(page)  # chunks in transit have arrived by now
    assert begins_with(before, seen)
    server.start()
    expect(state(page)).to_have_attribute("data-state", "live")
    after = wait_done(page)
    assert begins_with(after, before)
    assert after == told(server, session_of(page))
    expect(answers(page).get_by_role("alert")).to_be_visible()
    write(page, "and now a short one")
    expect(answers(page)).to_have_count(2)
    assert wait_done(page) == told(server, session_of(page))


def test_connection_dropped(serve: Serve, tabs: Tabs) -> None:
    """Without a network the page says so. When the network is back, it continues where it was."""
    tabs.network_fails = True
    server = serve(**MEDIUM)
    page = tabs.open(server.url)
    write(page, "hello")
    before = wait_longer(page, 10)
    page.context.set_offline(True)
    expect(state(page)).to_contain_text("Offline")
    page.context.set_offline(False)
    expect(state(page)).to_have_attribute("data-state", "live")
    final = wait_done(page)
    assert begins_with(final, before)
    assert final == told(server, session_of(page))


def test_connection_reset(serve: Serve, tabs: Tabs) -> None:
    """If a proxy resets its connections, the page continues, and nothing is missing or doubled."""
    tabs.network_fails = True
    server = serve(**LONG)
    with proxied(server.port) as proxy:
        page = tabs.open(proxy.url)
        write(page, "a long one")
        wait_longer(page, 5)
        resets = 0
        while resets < 4:
            resets += proxy.reset()
            wait_longer(page, 5)
        page.get_by_role("button", name="Stop").click()
        assert wait_done(page) == told(server, session_of(page))


def test_deploy_midway(serve: Serve, tabs: Tabs) -> None:
    """On SIGTERM the server completes the answer, and the page gets it from the next server."""
    tabs.network_fails = True
    server = serve(**MEDIUM)
    page = tabs.open(server.url)
    write(page, "hello")
    before = wait_longer(page, 10)
    assert server.terminate() == 0
    server.start()
    expect(state(page)).to_have_attribute("data-state", "live")
    after = wait_done(page)
    assert begins_with(after, before)
    assert after == told(server, session_of(page))
    expect(answers(page).get_by_role("alert")).to_have_count(0)


def test_reads_that_end(serve: Serve, tabs: Tabs) -> None:
    """The server ends every live read after a while. The page continues, and nothing is missing or doubled."""
    server = serve(**MEDIUM, DURABLE_CHAT_SSE_S="1")
    page = tabs.open(server.url)
    reads: list[str] = []
    page.on("request", lambda request: reads.append(request.url))
    write(page, "hello")
    wait_longer(page, 5)
    assert wait_done(page) == told(server, session_of(page))
    reads = [url for url in reads if "api/events" in url]
    assert len(reads) > 1
    assert len(set(reads)) == len(reads), "each read began where the one before had ended"


# Failures.


def test_answer_fails(quick: Server, tabs: Tabs) -> None:
    """A failed answer shows an error that people understand, keeps its text, and offers another try."""
    page = tabs.open(quick.url)
    write(page, "please fail")
    expect(error(page)).to_contain_text("The demo model failed halfway, because the message said so.")
    expect(try_again(page)).to_be_visible()
    assert wait_done(page)
    write(page, "and go on")
    expect(answers(page)).to_have_count(2)
    wait_done(page)
    expect(answers(page).last.get_by_role("alert")).to_have_count(0)


def test_trying_again(tmp_path: Path, processes: list[Process], tabs: Tabs) -> None:
    """The new answer replaces the failed one."""
    page = tabs.open(start_app(tmp_path / "app", failing_once(FAILURE), processes).url)
    write(page, "hello")
    expect(error(page)).to_be_visible()
    expect(error(page)).not_to_contain_text("internals")
    try_again(page).click()
    expect(answer(page)).to_have_text("Half of it, and the rest.")
    expect(page.get_by_role("alert")).to_have_count(0)
    expect(page.locator(".message.user")).to_have_count(1)
    expect(answers(page)).to_have_count(1)


def test_message_too_long(serve: Serve, tabs: Tabs) -> None:
    """A refused message stays on the screen with the reason, and nothing of it is written."""
    tabs.network_fails = True
    server = serve(DURABLE_CHAT_BODY_MAX_BYTES="2000")
    page = tabs.open(server.url)
    text = "many words " * 300
    write(page, text)
    message = page.locator(".message.user")
    expect(message.get_by_role("alert")).to_contain_text("2000")
    expect(message.locator(".body")).to_have_text(text.strip())
    assert snapshot(server, session_of(page))["messages"] == []


# The content of an answer.


def test_thinking_and_tools(quick: Server, tabs: Tabs) -> None:
    """Thinking and tools have cards that open on a click. They are still there after a reload."""
    page = tabs.open(quick.url)
    write(page, "think and use a tool")
    for _ in range(2):
        wait_done(page)
        expect(page.get_by_text("Thought about it")).to_be_visible()
        thoughts = page.get_by_text("The message has 5 words.")
        expect(thoughts).to_be_hidden()
        page.get_by_text("Thought about it").click()
        expect(thoughts).to_be_visible()
        card = page.locator(".tool")
        expect(card).to_contain_text("count_words")
        expect(card).to_contain_text("Done")
        card.get_by_text("count_words").click()
        expect(card.get_by_text('"words": 5')).to_be_visible()
        expect(card.get_by_text("think and use a tool")).to_be_visible()
        page.reload()


def test_approval_is_asked_for(quick: Server, tabs: Tabs) -> None:
    """A tool that needs approval shows its arguments and asks."""
    page = tabs.open(quick.url)
    write(page, "approve this")
    card = page.locator(".tool")
    expect(card).to_contain_text("Needs your approval")
    expect(card.get_by_text("approve this")).to_be_visible()
    expect(card.get_by_role("button", name="Approve")).to_be_visible()
    expect(card.get_by_role("button", name="Deny")).to_be_visible()


HOSTILE = """<img src=x onerror="window.ran=1"> <script>window.ran=1</script> <svg onload=window.ran=1>

[run](javascript:window.ran=1) [run](JaVaScRiPt:window.ran=1) [run](data:text/html,<script>window.ran=1</script>)

```html"><script>window.ran=1</script>
<img src=x onerror="window.ran=1">
```

| <img src=x onerror=window.ran=1> | b |
|---|---|
| <iframe src="javascript:window.ran=1"> | `<b>` |
"""


def assert_nothing_ran(page: Page) -> None:
    assert page.evaluate("window.ran") is None
    assert page.locator("#messages").locator("img, script, svg, iframe, b, [onerror], [onload]").count() == 0
    assert page.locator('a[href^="javascript" i], a[href^="data" i]').count() == 0


def test_markup_is_text(quick: Server, tabs: Tabs) -> None:
    """Markup in a message or an answer is shown as text, and nothing of it is executed."""
    page = tabs.open(quick.url)
    text = '<img src=x onerror="window.ran=1"> <script>window.ran=1</script> [x](javascript:window.ran=1)'
    write(page, text)
    wait_done(page)
    expect(page.locator(".message.user .body")).to_have_text(text)
    expect(answer(page).locator("blockquote")).to_have_text(text)
    assert_nothing_ran(page)
    append(quick, session_of(page), *said("hostile", HOSTILE))
    expect(answer(page)).to_contain_text("<svg onload=window.ran=1>")
    expect(answer(page)).to_contain_text("[run](JaVaScRiPt:window.ran=1)")
    expect(answer(page).locator("pre")).to_have_text('<img src=x onerror="window.ran=1">')
    assert_nothing_ran(page)


WRITTEN = """# Title

Some *soft* and **loud** words, a [link](https://example.org/a?b=c), `code`.

1. one
2. two
   - nested

```python
print("<hello>")
```

> quoted

| left | right |
|:-----|------:|
| 1    | 2     |
"""


def test_markdown_is_drawn(quick: Server, tabs: Tabs) -> None:
    """Models' Markdown is rendered."""
    page = tabs.open(quick.url)
    append(quick, session_of(page), *said("drawn", WRITTEN))
    text = answer(page)
    expect(text.get_by_role("heading", name="Title")).to_be_visible()
    expect(text.locator("em")).to_have_text("soft")
    expect(text.locator("strong")).to_have_text("loud")
    expect(text.locator("p code")).to_have_text("code")
    expect(text.get_by_role("link")).to_have_attribute("href", "https://example.org/a?b=c")
    expect(text.get_by_role("link")).to_have_attribute("rel", "noopener noreferrer")
    expect(text.locator("ol > li")).to_have_count(2)
    expect(text.locator("ol > li > ul > li")).to_have_text("nested")
    expect(text.locator("pre")).to_have_text('print("<hello>")')
    expect(text.locator("blockquote")).to_have_text("quoted")
    expect(text.locator("td")).to_have_text(["1", "2"])


# The page around it.


def test_phone(quick: Server, tabs: Tabs) -> None:
    """On a phone nothing is wider than the screen, whatever a message contains, and everything can be reached."""
    page = tabs.open(quick.url, viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    word, line = "w" * 400, "x = " + "long_name + " * 40
    write(page, f"{word} https://example.org/{word}")
    wait_done(page)
    wide = f"{word}\n\n```\n{line}\n```\n\n`{word}`\n\n|{'a|' * 30}\n|{'-|' * 30}\n|{'cell|' * 30}\n\n- {word}"
    append(quick, session_of(page), *said("wide", wide))
    expect(answer(page).locator("table")).to_be_visible()
    for box in ("html", "body", "#scroll", "#messages"):
        assert page.locator(box).evaluate("box => box.scrollWidth <= box.clientWidth"), box
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    for button in (page.get_by_label("Send"), page.locator("#menu")):
        expect(button).to_be_in_viewport(ratio=1)
    expect(page.get_by_role("button", name="New chat")).to_be_hidden()
    page.locator("#menu").tap()
    expect(page.get_by_role("button", name="New chat")).to_be_in_viewport(ratio=1)
    page.get_by_role("button", name="New chat").tap()
    expect(page.get_by_role("button", name="New chat")).to_be_hidden()
    expect(page.locator(".message")).to_have_count(0)


def test_dark(quick: Server, tabs: Tabs) -> None:
    """The page is dark in dark mode."""
    lightness = """() => {
        const [r, g, b] = getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number);
        return (r + g + b) / 3;
    }"""
    assert tabs.open(quick.url, color_scheme="dark").evaluate(lightness) < 60
    assert tabs.open(quick.url, color_scheme="light").evaluate(lightness) > 200


def test_sessions(quick: Server, tabs: Tabs) -> None:
    """Chats are listed by their first words, newest first. A person can switch between them and delete one."""
    page = tabs.open(quick.url)
    listed = page.locator("#sessions a")
    write(page, "the first chat")
    wait_done(page)
    first = session_of(page)
    page.get_by_role("button", name="New chat").click()
    expect(page.locator(".message")).to_have_count(0)
    write(page, "the second chat")
    wait_done(page)
    second = session_of(page)
    assert first != second
    expect(listed).to_have_text(["the second chat", "the first chat"])
    listed.last.click()
    expect(page.locator(".message.user")).to_contain_text("the first chat")
    expect(page).to_have_title("the first chat")
    assert session_of(page) == first
    page.go_back()
    expect(page.locator(".message.user")).to_contain_text("the second chat")
    page.get_by_role("button", name="Delete “the second chat”").click()
    page.get_by_role("button", name="Keep it").click()
    expect(listed).to_have_count(2)
    page.get_by_role("button", name="Delete “the second chat”").click()
    with page.expect_response(lambda answered: answered.request.method == "DELETE") as removed:
        page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    assert removed.value.status == 204
    expect(page.locator(".message")).to_have_count(0)
    expect(listed).to_have_text(["the first chat"])
    assert snapshot(quick, second)["messages"] == []
    page.reload()
    expect(listed).to_have_text(["the first chat"])
    assert session_of(page) not in {first, second}


def test_session_deleted_elsewhere(serve: Serve, tabs: Tabs) -> None:
    """If another tab deletes the chat during an answer, the tab shows an empty chat that works."""
    server = serve(**LONG)
    tabs.network_fails = True
    first = tabs.open(server.url)
    write(first, "a long one")
    second = tabs.open(first.url)
    wait_longer(second, 5)
    first.get_by_role("button", name="Delete “a long one”").click()
    first.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(second.locator(".message")).to_have_count(0)
    expect(second.locator("#stop")).to_be_hidden()
    expect(state(second)).to_have_attribute("data-state", "live")
    write(second, "a new beginning")
    wait_longer(second, 5)


def test_keyboard(quick: Server, tabs: Tabs) -> None:
    """The message field has the focus. Shift+Enter makes a line, Enter sends, and an empty message is not sent."""
    page = tabs.open(quick.url)
    field = page.get_by_label("Message", exact=True)
    expect(field).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.type("one")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("two")
    expect(field).to_have_value("one\ntwo")
    page.keyboard.press("Enter")
    expect(field).to_have_value("")
    wait_done(page)
    messages = snapshot(quick, session_of(page))["messages"]
    assert [part["content"] for part in messages[0]["parts"]] == ["one\ntwo"]
    assert len(messages) == 2


def test_settings_are_saved_by_enter(tabs: Tabs, quick: Server) -> None:
    """Enter in the dialog's field saves. Cancel and Escape keep the old value."""
    page = tabs.open(quick.url)

    def kept() -> str:
        page.get_by_role("button", name="Settings").click()
        return page.get_by_label("Your own AI key").input_value()

    kept()
    page.get_by_label("Your own AI key").fill("sk-1")
    page.keyboard.press("Enter")
    expect(page.locator("#settings")).to_be_hidden()
    assert kept() == "sk-1"
    page.get_by_label("Your own AI key").fill("sk-2")
    page.get_by_role("button", name="Cancel").click()
    assert kept() == "sk-1"
    page.get_by_label("Your own AI key").fill("sk-2")
    page.keyboard.press("Escape")
    expect(page.locator("#settings")).to_be_hidden()
    assert kept() == "sk-1"
    page.get_by_label("Your own AI key").fill("sk-3")
    page.get_by_role("button", name="Save").click()
    assert kept() == "sk-3"
