"""What React pages show when an answer goes on after a crash, in Chromium: TanStack's `useChat` and the AI SDK's."""

from __future__ import annotations

import time
from typing import Any

import httpx
import pytest
from playwright.sync_api import Page, expect

from durable_chat.protocol.offsets import ZERO
from durable_chat.transcripts.runs.marks import RUN_RESUMED
from tests.conftest import Serve
from tests.interop import test_ai_sdk_page
from tests.interop.test_ai_sdk_page import shown
from tests.interop.test_react_page import (
    ANSWER,
    Open,
    built,
    open_page,
    send,
    site,
    told_by,
    wait_for_end,
    wait_for_streaming,
    wait_until_equal,
)
from tests.servers import Server
from tests.web.tabs import SHOWN_MAX_MS, snapshot

__all__ = ["built", "open_page", "site"]  # fixtures

# The longest answer, to a message with the word `long`, then takes a minute, twice as long as any wait. The test stops it.
PACE = {"DURABLE_CHAT_DEMO_DELAY_MS": "30"}

RECONNECT = [{}, {"module": ""}]
"""Pages of TanStack AI that reconnect by themselves: the stock connection on `serve`, and the served module."""
AI_SDK = ["ai-sdk-6-durable", "ai-sdk-7-durable", "ai-sdk-6-module", "ai-sdk-7-module"]
"""Pages of the AI SDK that do."""


@pytest.fixture(params=["retry", "continue"])
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def chat(serve: Serve, site: str, mode: str) -> Server:
    """A chat server whose answers go on after a crash."""
    return serve(DURABLE_CHAT_ALLOW_ORIGINS=site, DURABLE_CHAT_AFTER_CRASH=mode, **PACE)


def crash(page: Page, chat: Server) -> str:
    """Kill the server in the middle of the page's answer, and start it again. Return the text of the answer until then."""
    send(page, "make it long")
    wait_for_streaming(page, 0)
    chat.kill()
    before = str(page.evaluate(ANSWER, 0))
    chat.start()
    return before


def text_of(message: dict[str, Any]) -> str:
    return "".join(part["text"] for part in message["parts"] if part["type"] == "text")


def until_it_goes_on(chat: Server) -> None:
    """Wait until the log has text from after the crash."""
    query = {"id": "react", "offset": ZERO}
    deadline_s = time.monotonic() + SHOWN_MAX_MS / 1000
    while time.monotonic() < deadline_s:
        chunks = httpx.get(f"{chat.url}/api/chat-stream", params=query, timeout=20).json()
        resumed = [at for at, chunk in enumerate(chunks) if chunk.get("name") == RUN_RESUMED]
        if resumed and any(chunk["type"] == "TEXT_MESSAGE_CONTENT" for chunk in chunks[resumed[0] :]):
            return
        time.sleep(0.05)
    raise AssertionError("the answer does not go on")


def stop_later(page: Page, chat: Server, before: str) -> None:
    """Stop the answer once it has gone on and the page shows something else than before."""
    until_it_goes_on(chat)
    changed = f"before => {{ const now = ({ANSWER})(0); return now && now !== before }}"
    page.wait_for_function(changed, arg=before, timeout=SHOWN_MAX_MS)
    page.get_by_role("button", name="Stop").click()
    wait_for_end(page, 0)
    assert snapshot(chat, "react")["lastRun"]["status"] == "stopped"


@pytest.mark.parametrize("query", RECONNECT, ids=["stock", "module"])
def test_tanstack(open_page: Open, chat: Server, mode: str, query: dict[str, str]) -> None:
    """The page goes on with the answer, or begins it again, without an error and without a reload."""
    page = open_page(network_fails=True, **query)
    expect(page.locator("main")).to_be_visible()
    before = crash(page, chat)
    stop_later(page, chat, before)
    if mode == "continue":
        assert page.evaluate(ANSWER, 0).startswith(before)
    wait_until_equal(page, told_by(chat))
    expect(page.get_by_role("alert")).to_have_count(0)


@pytest.mark.parametrize("client", AI_SDK)
def test_ai_sdk(open_page: Open, chat: Server, mode: str, client: str) -> None:
    """The page goes on with the answer. What a retry dropped stays before the new answer until the page is reloaded."""
    page = shown(open_page(sdk=client, network_fails=True))
    before = crash(page, chat)
    stop_later(page, chat, before)
    told = test_ai_sdk_page.told_by(chat)
    if mode == "continue":
        wait_until_equal(page, told)
    else:
        assert page.evaluate(ANSWER, 0).startswith(before)
        assert page.evaluate(ANSWER, 0).endswith(text_of(told[-1]))
    page.reload()
    wait_until_equal(page, told)
