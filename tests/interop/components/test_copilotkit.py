"""CopilotKit's React components in Chromium, with this server as their runtime."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from tests.interop.components import growth
from tests.interop.components.conftest import Open, Transcript
from tests.interop.components.threads import PICTURE, texts_of
from tests.servers import Server
from tests.web.tabs import SHOWN_MAX_MS, words

NAME = "copilotkit"
RUNNING = "window.agent.isRunning"

# The text of the agent's messages, by role. Consecutive answers are joined.
SHOWN = """() => window.agent.messages.filter(({ role }) => role === 'user' || role === 'assistant').map(({ role, content }) =>
    [role, typeof content === 'string' ? content : (content ?? []).map(part => part.text ?? '').join(' ')])"""


@pytest.fixture(params=["rest", "single"])
def transport(request: pytest.FixtureRequest) -> dict[str, str]:
    """The runtime's separate routes, and its single route."""
    return {"single": ""} if request.param == "single" else {}


@pytest.fixture
def page(open_page: Open) -> Page:
    return open_page("copilotkit")


def say(page: Page, text: str) -> None:
    page.get_by_test_id("copilot-chat-textarea").fill(text)
    page.get_by_test_id("copilot-send-button").click()


def answers(page: Page, count: int) -> None:
    """Wait until at least this many answers are shown and no answer is running."""
    expect(page.get_by_test_id("copilot-assistant-message").nth(count - 1)).to_be_attached()
    page.wait_for_function(f"window.agent && !{RUNNING}", timeout=SHOWN_MAX_MS)


def wait_for_growth(page: Page) -> None:
    """Wait until the newest answer shows some text and then more."""
    newest = "[...document.querySelectorAll('[data-testid=copilot-assistant-message]')].at(-1)?.innerText.length ?? 0"
    length = 0
    for _ in ("some", "more"):
        page.wait_for_function(f"length => {RUNNING} && ({newest}) > length", arg=length, timeout=SHOWN_MAX_MS)
        length = page.evaluate(newest)


def shown(page: Page) -> list[tuple[str, list[str]]]:
    made: list[tuple[str, list[str]]] = []
    for role, text in page.evaluate(SHOWN):
        if made and made[-1][0] == role == "assistant":
            made[-1][1].extend(words(text))
        else:
            made.append((role, words(text)))
    return made


@pytest.mark.cell(NAME, "send", "stream")
def test_send(open_page: Open, transport: dict[str, str], transcript: Transcript) -> None:
    """A message is answered word by word, and the page shows the server's messages."""
    page = open_page("copilotkit", **transport)
    growth.watch(page, "[data-testid=copilot-assistant-message]")
    say(page, "please think and say hello")
    answers(page, 1)
    assert growth.grew(page)
    assert shown(page) == texts_of(transcript())
    say(page, "hello again")
    answers(page, 2)
    assert shown(page) == texts_of(transcript())
    assert [message["role"] for message in transcript()].count("user") == 2


@pytest.mark.cell(NAME, "reload midway", "second tab", "stop")
def test_reload_watch_and_stop(open_page: Open, transport: dict[str, str], transcript: Transcript) -> None:
    """After a reload during an answer, the page shows all of it. A second tab follows it and stops it for both."""
    page = open_page("copilotkit", **transport)
    say(page, "please think, use a tool and make it long")
    wait_for_growth(page)
    page.reload()
    wait_for_growth(page)
    second = open_page("copilotkit", **transport)
    wait_for_growth(second)
    second.get_by_test_id("copilot-send-button").click()
    for tab in (page, second):
        answers(tab, 1)
    messages = transcript()
    assert messages[-1]["metadata"]["durableChat"]["run"]["status"] == "stopped"
    for tab in (page, second):
        assert shown(tab) == texts_of(messages)


def test_stop_of_its_own(open_page: Open, transport: dict[str, str], transcript: Transcript) -> None:
    """The stop button of the sending page stops the answer on the server."""
    page = open_page("copilotkit", **transport)
    say(page, "make it long")
    wait_for_growth(page)
    page.get_by_test_id("copilot-send-button").click()
    answers(page, 1)
    messages = transcript()
    assert messages[-1]["metadata"]["durableChat"]["run"]["status"] == "stopped"
    assert shown(page) == texts_of(messages)


@pytest.mark.cell(NAME, "second tab")
def test_idle_tab(open_page: Open, transcript: Transcript) -> None:
    """With the guide's few lines, an open tab shows an answer that begins in another tab."""
    tabs = [open_page("copilotkit", live=""), open_page("copilotkit", live="")]
    for tab in tabs:
        expect(tab.get_by_test_id("copilot-chat-textarea")).to_be_visible()
    say(tabs[0], "make it long")
    for tab in tabs:
        wait_for_growth(tab)
    tabs[1].get_by_test_id("copilot-send-button").click()
    for tab in tabs:
        answers(tab, 1)
        assert shown(tab) == texts_of(transcript())


def test_server_killed(open_page: Open, chat: Server, transcript: Transcript) -> None:
    """
    When the server is killed during an answer, the page gets an error, and after a reload it shows everything that
    was written.
    """
    page = open_page("copilotkit", network_fails=True)
    say(page, "make it long")
    wait_for_growth(page)
    chat.restart()
    page.wait_for_function("document.body.dataset.error", timeout=SHOWN_MAX_MS)
    page.reload()
    answers(page, 1)
    messages = transcript()
    assert messages[-1]["metadata"]["durableChat"]["run"]["status"] == "interrupted"
    assert shown(page) == texts_of(messages)
    say(page, "hello")
    answers(page, 2)
    assert shown(page) == texts_of(transcript())


@pytest.mark.cell(NAME, "error")
def test_error(page: Page, transcript: Transcript) -> None:
    """A failed answer is reported to the application. The next message is answered."""
    say(page, "fail")
    page.wait_for_function("document.body.dataset.error", timeout=SHOWN_MAX_MS)
    assert "demo model failed" in str(page.evaluate("document.body.dataset.error"))
    say(page, "hello")
    answers(page, 2)
    assert shown(page) == texts_of(transcript())


@pytest.mark.cell(NAME, "tool")
def test_tools(page: Page, transcript: Transcript) -> None:
    """A server tool has its result. A page's tool is executed on the page, and the answer continues with its result."""
    say(page, "use a tool")
    answers(page, 1)
    assert page.evaluate("window.agent.messages.some(({ role }) => role === 'tool')")
    say(page, 'set_color {"color": "teal"}')
    expect(page.locator('body[data-color="teal"]')).to_be_visible()
    expect(page.get_by_text("gave")).to_be_visible()
    answers(page, 1)
    assert [message["role"] for message in transcript()].count("user") == 2
    assert shown(page) == texts_of(transcript())


def test_human_in_the_loop(page: Page, transcript: Transcript) -> None:
    """A tool that a person answers waits for the answer, also after a reload, and the run continues."""
    say(page, 'ask_size {"question": "Which size?"}')
    expect(page.get_by_text("Which size?")).to_be_visible()
    page.reload()
    page.get_by_role("button", name="Large").click()
    expect(page.get_by_text("gave")).to_be_visible()
    answers(page, 1)
    assert shown(page) == texts_of(transcript())


@pytest.mark.cell(NAME, "approval")
@pytest.mark.parametrize("reloads", [False, True], ids=["at once", "after a reload"])
@pytest.mark.parametrize(("button", "said"), [("Approve", "The note is saved."), ("Decline", "You did not approve")])
def test_approval(page: Page, transcript: Transcript, button: str, said: str, *, reloads: bool) -> None:
    """A call waits for approval. The answer continues with the decision, and no other answer starts."""
    say(page, "approve this")
    expect(page.get_by_test_id("approval")).to_be_visible()
    if reloads:
        page.reload()
    page.get_by_role("button", name=button).click()
    expect(page.get_by_text(said)).to_be_visible()
    answers(page, 1)
    messages = transcript()
    assert [message["role"] for message in messages].count("user") == 1
    assert shown(page) == texts_of(messages)
    expect(page.get_by_test_id("approval")).to_have_count(0)


@pytest.mark.cell(NAME, "attachment")
def test_attachment(page: Page) -> None:
    """A picture reaches the model, and is shown again after a reload."""
    files = page.locator('input[type="file"]').first
    files.set_input_files({"name": "dot.png", "mimeType": "image/png", "buffer": PICTURE})
    expect(page.get_by_test_id("copilot-attachment-queue")).to_be_visible()
    say(page, "look")
    expect(page.get_by_text("You attached")).to_be_visible()
    answers(page, 1)
    page.reload()
    expect(page.get_by_test_id("copilot-user-message").locator("img")).to_be_visible()
    assert page.evaluate("document.querySelector('[data-testid=copilot-user-message] img').naturalWidth > 0")
