"""The page's texts: set by the application or the environment, shown unchanged, and never markup."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import FilePayload, expect

from durable_chat.config.kinds import SUGGESTIONS_MAX
from durable_chat.config.settings import Settings
from durable_chat.errors import StartError
from durable_chat.web.templates import Page, render
from tests.conftest import Serve
from tests.servers import Process, start_app
from tests.web.tabs import Tabs, write

HOSTILE = '<b onclick="x">&\'{{heading}}</title>'

APP = """
from durable_chat import DurableChat, Page

page = Page(
    title="Ask <Acme>",
    heading="How can we help?",
    intro="Answers about our products.",
    placeholder="Ask a question",
    suggestions=["Where is my parcel?", "<b>Refunds</b>"],
    attachments=False,
    ai_key=False,
)
chat = DurableChat("memory://", page=page)

@chat.model
async def answer(turn):
    yield "As you say."
"""


def test_every_text_is_escaped() -> None:
    """A text that looks like markup, or like another placeholder, is shown unchanged."""
    page = Page(HOSTILE, HOSTILE, HOSTILE, HOSTILE, [HOSTILE], HOSTILE)
    names = ("title", "heading", "intro", "placeholder", "suggestions", "lang")
    made = render("|".join(f"{{{{{name}}}}}" for name in names), page, Settings())
    escaped = "&lt;b onclick=&quot;x&quot;&gt;&amp;&#x27;{{heading}}&lt;/title&gt;"
    button = f'<button type="button" dir="auto">{escaped}</button>'
    assert made.split("|") == [button if name == "suggestions" else escaped for name in names]


@pytest.mark.parametrize(
    "texts",
    [{"title": 5}, {"heading": "x" * 501}, {"suggestions": "one"}, {"suggestions": ["x"] * (SUGGESTIONS_MAX + 1)}],
    ids=str,
)
def test_what_is_no_text_is_refused(texts: dict[str, Any]) -> None:
    """An invalid text is an error at start, with a sentence that names the problem."""
    with pytest.raises(StartError):
        Page(**texts)


def test_an_application_names_its_page(tmp_path: Path, processes: list[Process], tabs: Tabs) -> None:
    """The page shows the application's texts, and removes the features that the application turned off."""
    page = tabs.open(start_app(tmp_path / "app", APP, processes).url)
    expect(page).to_have_title("Ask <Acme>")
    expect(page.locator(".brand")).to_have_text("Ask <Acme>")
    expect(page.get_by_role("heading", name="How can we help?")).to_be_visible()
    expect(page.get_by_text("Answers about our products.")).to_be_visible()
    expect(page.get_by_label("Message", exact=True)).to_have_attribute("placeholder", "Ask a question")
    expect(page.locator("#suggestions button")).to_have_text(["Where is my parcel?", "<b>Refunds</b>"])
    expect(page.get_by_role("button", name="Attach files")).to_be_hidden()
    expect(page.get_by_role("button", name="Settings")).to_be_hidden()
    page.locator("#files").set_input_files([FilePayload(name="a.txt", mimeType="text/plain", buffer=b"a")])
    expect(page.get_by_role("alert")).to_contain_text("This chat takes no files.")
    page.get_by_role("button", name="Where is my parcel?").click()
    expect(page.locator(".message.assistant")).to_contain_text("As you say.")
    expect(page).to_have_title("Where is my parcel?")


def test_the_environment_names_the_page(serve: Serve, tabs: Tabs) -> None:
    """DURABLE_CHAT_TITLE and DURABLE_CHAT_SUGGESTIONS configure the page of `serve`."""
    page = tabs.open(serve(DURABLE_CHAT_TITLE="Support & more", DURABLE_CHAT_SUGGESTIONS="One | Two").url)
    expect(page).to_have_title("Support & more")
    expect(page.locator("#suggestions button")).to_have_text(["One", "Two"])
    write(page, "hello")
    expect(page).to_have_title("hello")
