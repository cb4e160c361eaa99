"""
A message that is written before the session has arrived, on React pages in Chromium: it stays on the page, once, and the
page shows what the server has.
"""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page

from tests.gates import Gate, reload_slowly
from tests.interop import test_ai_sdk_page, test_react_page
from tests.interop.test_ai_sdk_page import shown
from tests.interop.test_react_page import (
    Open,
    built,
    chat,
    open_page,
    send,
    site,
    wait_for_end,
    wait_for_streaming,
    wait_until_equal,
)
from tests.servers import Server

__all__ = ["built", "chat", "open_page", "site"]  # fixtures


def let_go(page: Page, gate: Gate, urls: re.Pattern[str]) -> None:
    """Let the requests go on, and wait for a response."""
    with page.expect_response(urls):
        gate.open()


@pytest.mark.parametrize("client", ["ai-sdk-6", "ai-sdk-7", "ai-sdk-7-durable", "ai-sdk-7-module"])
def test_ai_sdk(open_page: Open, chat: Server, client: str) -> None:
    """The request that resumes an answer arrives after the message. It does not bring the new answer a second time."""
    page = shown(open_page(sdk=client))
    send(page, "hello")
    wait_for_end(page, 0)
    gate = reload_slowly(page, RESUME)
    send(shown(page), "make it long")
    wait_for_streaming(page, 1)
    let_go(page, gate, RESUME)
    wait_for_streaming(page, 1)
    page.get_by_role("button", name="Stop").click()
    wait_for_end(page, 1)
    wait_until_equal(page, test_ai_sdk_page.told_by(chat))


RESUME = re.compile("/react/stream")


@pytest.mark.parametrize("connection", ["sse", "ndjson"])
def test_tanstack_requests(open_page: Open, chat: Server, connection: str) -> None:
    """A page that begins with the session's messages shows them beside the new one, although they arrive again later."""
    page = open_page(connection=connection, preload="")
    send(page, "hello")
    wait_for_end(page, 0)
    gate = reload_slowly(page, HYDRATION)
    send(page, "make it long")
    wait_for_streaming(page, 1)
    let_go(page, gate, HYDRATION)
    wait_for_streaming(page, 1)
    page.get_by_role("button", name="Stop").click()
    wait_for_end(page, 1)
    wait_until_equal(page, test_react_page.told_by(chat))


HYDRATION = re.compile("threadId=")
