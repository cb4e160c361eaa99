"""
A message that is written before the session has arrived, on React pages in Chromium: it stays on the page, once, and the
page shows what the server has.
"""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, Route

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


def reload_slowly(page: Page, requests: re.Pattern[str]) -> list[Route]:
    """Reload the page. Return its requests, which wait until the test lets them go on."""
    held: list[Route] = []
    page.route(requests, lambda route: held.append(route))
    with page.expect_request(requests):
        page.reload()
    return held


def let_go(page: Page, held: list[Route], requests: re.Pattern[str]) -> None:
    """Let the requests go on, and wait for a response."""
    page.unroute(requests)
    with page.expect_response(requests):
        for route in held:
            route.continue_()


@pytest.mark.parametrize("client", ["ai-sdk-6", "ai-sdk-7", "ai-sdk-7-durable", "ai-sdk-7-module"])
def test_ai_sdk(open_page: Open, chat: Server, client: str) -> None:
    """The request that resumes an answer arrives after the message. It does not bring the new answer a second time."""
    page = shown(open_page(sdk=client))
    send(page, "hello")
    wait_for_end(page, 0)
    held = reload_slowly(page, RESUME)
    send(shown(page), "make it long")
    wait_for_streaming(page, 1)
    let_go(page, held, RESUME)
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
    held = reload_slowly(page, HYDRATION)
    send(page, "make it long")
    wait_for_streaming(page, 1)
    let_go(page, held, HYDRATION)
    wait_for_streaming(page, 1)
    page.get_by_role("button", name="Stop").click()
    wait_for_end(page, 1)
    wait_until_equal(page, test_react_page.told_by(chat))


HYDRATION = re.compile("threadId=")
