"""Tabs of the chat page in a real browser, and what they show."""

from __future__ import annotations

import json
import re
import urllib.request
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Locator, Page, expect

from tests.servers import Process

# The timeout for what a page must show. The slowest case is a whole answer on a busy machine.
SHOWN_MAX_MS = 30_000

# Chromium's own log lines about failed, refused or cut requests, which the page cannot prevent.
NETWORK = "Failed to load resource:"

# An answer of about 4 s: enough to act during it on most machines, and short enough to wait for its end. A test that needs
# an answer to be unfinished uses the fixture `unfinished`.
MEDIUM = {"DURABLE_CHAT_DEMO_DELAY_MS": "40", "DURABLE_CHAT_DEMO_CHUNKS": "100"}
# The longest answer, to a message with the word `long`, then takes 40 s. No test waits for its end.
LONG = {"DURABLE_CHAT_DEMO_DELAY_MS": "20"}


def failing_once(error: str) -> str:
    """An application whose model raises this error in the middle of its first answer, and not in later ones."""
    return f"""
from durable_chat import DurableChat, ProviderError

chat = DurableChat("memory://")
failed = []

@chat.model
async def answer(turn):
    yield "Half of it, "
    if not failed:
        failed.append(turn.run_id)
        raise {error}
    yield "and the rest."
"""


FINISH = "finish"
UNFINISHED = f"""
import asyncio
import itertools
from pathlib import Path

from durable_chat import DurableChat

chat = DurableChat("memory://")

@chat.model
async def answer(turn):
    for number in itertools.count():
        yield f"word{{number}} "
        if Path("{FINISH}").exists():
            return
        await asyncio.sleep(0.04)
"""
"""An application whose answers grow until `finish` ends them."""


def finish(server: Process) -> None:
    """End the answers of an application of `UNFINISHED`, now and from now on."""
    (server.folder / FINISH).touch()


class Tabs:
    """
    Tabs of one test. Mutable state: `problems`, all complaints of a page. The test fails if there are any.

    With `network_fails` set, failed requests are no complaint, because the test causes them.
    """

    def __init__(self, browser: Browser) -> None:
        self.problems: list[str] = []
        self.network_fails = False
        self._browser = browser
        self._contexts: list[BrowserContext] = []

    def open(self, url: str, *, settled: str = "live", **options: Any) -> Page:
        """Open a tab in its own browser: another device, which shares nothing with the others."""
        context = self._browser.new_context(**options)
        context.set_default_timeout(SHOWN_MAX_MS)
        self._contexts.append(context)
        context.on("page", self._listen)
        return self._go(context.new_page(), url, settled)

    def beside(self, page: Page, url: str) -> Page:
        """Open a further tab of the same browser."""
        return self._go(page.context.new_page(), url)

    def close(self) -> None:
        for context in self._contexts:
            context.close()

    def _go(self, page: Page, url: str, settled: str = "live") -> Page:
        page.goto(url)
        expect(state(page)).to_have_attribute("data-state", settled)
        return page

    def _listen(self, page: Page) -> None:
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on("console", self._hear)

    def _hear(self, message: ConsoleMessage) -> None:
        expected = self.network_fails and message.text.startswith(NETWORK)
        if message.type in {"error", "warning"} and not expected:
            self.problems.append(f"{message.text} ({message.location.get('url')})")


def state(page: Page) -> Locator:
    """The connection state. Its `data-state` is for programs."""
    return page.locator("#state")


def write(page: Page, text: str) -> None:
    """Write a message and send it as most people do. On return the page shows it, because it is drawn in the next frame."""
    page.get_by_label("Message", exact=True).fill(text)
    page.keyboard.press("Enter")
    page.evaluate("new Promise(requestAnimationFrame)")


def answers(page: Page) -> Locator:
    return page.locator(".message.assistant")


def answer(page: Page) -> Locator:
    """The last text of the newest answer."""
    return answers(page).last.locator(".prose:not(.thoughts)").last


def error(page: Page) -> Locator:
    """The error of the last answer."""
    return answers(page).last.get_by_role("alert")


def try_again(page: Page) -> Locator:
    return error(page).get_by_role("button", name="Try again")


def shown(page: Page) -> list[str]:
    """The words of the newest answer on the screen now. Empty if there is no answer yet."""
    return words(" ".join(answer(page).all_inner_texts()))


def wait_longer(page: Page, than: int) -> list[str]:
    """Wait until the newest answer shows more words than that, and return them."""
    script = r"""than => {
        const texts = [...document.querySelectorAll('.message.assistant:last-child .prose:not(.thoughts)')];
        return (texts.map(text => text.innerText).join(' ').match(/\w+/g) ?? []).length > than;
    }"""
    page.wait_for_function(script, arg=than)
    return shown(page)


def wait_done(page: Page) -> list[str]:
    """Wait until the last message is an answer and none is being written, and return the words of the newest one."""
    expect(page.locator(".message").last).to_have_class(re.compile(r"\bassistant\b"))
    expect(answers(page).last).to_be_visible()
    expect(page.locator("#stop")).to_be_hidden()
    expect(page.locator(".message[data-live]")).to_have_count(0)
    return shown(page)


def words(text: str) -> list[str]:
    """The part of a text that is the same before and after Markdown is rendered."""
    return re.findall(r"[^\W_]+", text)


def begins_with(longer: list[str], shorter: list[str]) -> bool:
    """Whether everything shown before is still there. The last word may have been cut."""
    *whole, last = shorter
    return longer[: len(whole)] == whole and longer[len(whole)].startswith(last)


def session_of(page: Page) -> str:
    return parse_qs(urlsplit(page.url).query)["id"][0]


def address(server: Process, session: str) -> str:
    return f"{server.url}/?{urlencode({'id': session})}"


def snapshot(server: Process, session: str) -> Any:
    """The server's snapshot of the session."""
    with urllib.request.urlopen(f"{server.url}/api/chat-snapshot?{urlencode({'id': session})}", timeout=30) as found:
        return json.load(found)


def told(server: Process, session: str) -> list[str]:
    """The words of the newest answer on the server."""
    message = snapshot(server, session)["messages"][-1]
    assert message["role"] == "assistant"
    return words(" ".join(part["content"] for part in message["parts"] if part["type"] == "text"))


def live_reads(server: Process) -> int:
    """The number of long-lived responses that the server has open now."""
    with urllib.request.urlopen(f"{server.url}/metrics", timeout=30) as answer:
        found = re.search(r"^durable_chat_live_reads (\S+)$", answer.read().decode(), re.MULTILINE)
    assert found is not None
    return int(float(found[1]))


def append(server: Process, session: str, *chunks: dict[str, Any]) -> None:
    """Append chunks to the session's stream as another program does."""
    url = f"{server.url}/v1/stream/chat-{session}"
    headers = {"Content-Type": "application/json"}
    for method, body in (("PUT", None), ("POST", json.dumps(chunks).encode())):
        request = urllib.request.Request(url, body, headers, method=method)
        with urllib.request.urlopen(request, timeout=30):
            pass


def said(message_id: str, text: str) -> list[dict[str, Any]]:
    """The chunks of an assistant's message."""
    return [
        {"type": "TEXT_MESSAGE_START", "messageId": message_id, "role": "assistant"},
        {"type": "TEXT_MESSAGE_CONTENT", "messageId": message_id, "delta": text},
        {"type": "TEXT_MESSAGE_END", "messageId": message_id},
    ]
