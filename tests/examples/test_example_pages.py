"""Examples of pages: each is started by the command of its README and used in Chromium."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from tests.examples.conftest import StartExample
from tests.examples.starting import Example
from tests.servers import Process, node_env
from tests.web.tabs import SHOWN_MAX_MS

PAGES = ("plain_javascript", "react_app")


@pytest.fixture
def context(chromium: Browser) -> Iterator[BrowserContext]:
    """A browser; a page that complains about anything fails the test."""
    problems: list[str] = []
    context = chromium.new_context()
    context.set_default_timeout(SHOWN_MAX_MS)
    context.on("weberror", lambda error: problems.append(str(error.error)))
    context.on("console", lambda said: problems.append(said.text) if said.type in ("error", "warning") else None)
    yield context
    context.close()
    assert problems == []


def open_page(context: BrowserContext, url: str) -> Page:
    page = context.new_page()
    page.goto(url)
    return page


def send(page: Page, text: str) -> None:
    page.get_by_label("Message").fill(text)
    page.get_by_role("button", name="Send").click()


def wait_at_rest(example: Example, turns: int) -> None:
    """The server has so many turns of the chat, and writes no further answer."""
    deadline_s = time.monotonic() + SHOWN_MAX_MS / 1000
    while (told := example.snapshot())["activeRun"] is not None or len(told["messages"]) < 2 * turns:
        assert time.monotonic() < deadline_s, f"no answer: {told}"
        time.sleep(0.02)


def wait_answered(pages: list[Page], example: Example, turns: int) -> None:
    """Each page shows the whole chat, as the server has it."""
    wait_at_rest(example, turns)
    for page in pages:
        wait_shown(page, example)


def wait_shown(page: Page, example: Example) -> None:
    texts = ["".join(part["content"] for part in message["parts"]) for message in example.messages()]
    expect(page.locator("main > p")).to_have_text(texts)


@pytest.mark.parametrize("name", PAGES)
def test_tabs(name: str, start: StartExample, context: BrowserContext) -> None:
    """Two tabs show a conversation, live, and so do both after a reload, and a new one after a crash of the server."""
    example = start(name)
    tabs = [open_page(context, example.url) for _ in range(2)]
    send(tabs[0], "hello")
    wait_answered(tabs, example, 1)
    send(tabs[1], "and again")
    wait_answered(tabs, example, 2)
    for tab in tabs:
        tab.reload()
        wait_shown(tab, example)
        tab.close()
    example.restart()
    wait_shown(open_page(context, example.url), example)


@pytest.mark.parametrize("name", PAGES)
def test_reload_and_stop(name: str, start: StartExample, context: BrowserContext) -> None:
    """A reload in the middle of an answer goes on with it, and the button stops it."""
    example = start(name)
    page = open_page(context, example.url)
    send(page, "long")
    answer = page.locator("main > p.assistant")
    expect(answer).to_contain_text("You wrote")
    page.reload()
    expect(answer).to_contain_text("A stream is a log")
    page.get_by_role("button", name="Stop").click()
    wait_answered([page], example, 1)
    assert example.snapshot()["lastRun"]["status"] == "stopped"


class Vite(Process):
    """Vite's development server, as `npm run dev` starts it in the folder of a running example."""

    def __init__(self, example: Example) -> None:
        npm = Path(node_env()).parent / "npm"
        command = (str(npm), "run", "dev", "--", "--host", "127.0.0.1", "--port", "{port}")
        path = f"{npm.parent}{os.pathsep}{os.environ['PATH']}"
        super().__init__(command, example.folder, {"PATH": path, "CHAT_URL": example.url})


def test_development(start: StartExample, processes: list[Process], context: BrowserContext) -> None:
    """The page as it is served while somebody works on it."""
    example = start("react_app")
    vite = Vite(example)
    processes.append(vite)
    vite.start()
    page = open_page(context, vite.url)
    send(page, "hello")
    wait_answered([page], example, 1)
