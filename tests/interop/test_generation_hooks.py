"""TanStack AI's generation hooks, unchanged, in Chromium and from another origin than the server, on each transport."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from playwright.sync_api import Page, expect

from tests.interop.test_react_page import Open, built, open_page, site
from tests.servers import App
from tests.web.tabs import SHOWN_MAX_MS

__all__ = ["built", "chat", "open_page", "site"]  # fixtures

HOOKS = ("image", "speech", "transcription", "summary", "video")
TRANSPORTS = ("sse", "ndjson", "direct", "response")


@pytest.fixture(scope="module")
def generating(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    """The application with scripted generations, for all tests: each has a slot of its own."""
    source = "tests.interop.scripted_generations:app"
    command = (sys.executable, "-m", "uvicorn", source, "--port", "{port}", "--no-access-log")
    settings = {"DURABLE_CHAT_ALLOW_ORIGINS": "*", "DURABLE_CHAT_STORE": "memory://"}
    app = App(command, tmp_path_factory.mktemp("generating"), settings)
    app.start()
    yield app
    app.kill()


@pytest.fixture
def chat(generating: App) -> App:
    """The application, where `wait` waits."""
    httpx.post(f"{generating.url}/hold", timeout=20).raise_for_status()
    return generating


def combinations(*cases: str) -> list[Any]:
    """Every hook on every transport, each with the cases that a test shows of it."""
    marked = pytest.mark.generation
    return [
        pytest.param(hook, transport, marks=marked(f"{hook}-{transport}", *_shown(transport, cases)))
        for hook in HOOKS
        for transport in TRANSPORTS
    ]


def _shown(transport: str, cases: tuple[str, ...]) -> list[str]:
    return [case for case in cases if not (case == "progress" and transport == "direct")]


def opened(open_page: Open, hook: str, transport: str, case: str = "one", **more: Any) -> Page:
    page = open_page(generate=hook, transport=transport, id=slot_of(hook, transport, case), **more)
    expect(page.locator("main")).to_be_visible()
    return page


def slot_of(hook: str, transport: str, case: str) -> str:
    return f"{hook}-{transport}-{case}"


def generate(page: Page, text: str) -> None:
    page.get_by_label("Text").fill(text)
    page.get_by_role("button", name="Generate").click()


def wait_status(page: Page, status: str) -> dict[str, Any]:
    """The hook comes to have this status. What the page knows then."""
    expect(page.locator(f'main[data-status="{status}"]')).to_be_visible(timeout=SHOWN_MAX_MS)
    told: dict[str, Any] = page.evaluate("window.generation")
    return told


def check_result(api: str, hook: str, told: dict[str, Any], *, restored: bool = False) -> None:
    """The hook has the whole result of this activity, with files that can be read."""
    result = told["result"]
    if hook == "image":
        assert [httpx.get(api + image["url"]).headers["content-type"] for image in result["images"]] == ["image/png"]
    elif hook == "speech":
        assert result["audio"] == "" if restored else result["audio"].startswith("UklGR")
        assert httpx.get(api + result["artifacts"][0]["url"]).content.startswith(b"RIFF")
    elif hook == "transcription":
        assert result["text"] == "heard 46 bytes"
    elif hook == "summary":
        assert (result["summary"], result["usage"]["totalTokens"]) == ("in short", 5)
    else:
        assert (result["jobId"][:4], result["status"]) == ("job-", "completed")
        assert httpx.get(api + result["url"], headers={"Range": "bytes=2-"}).content == b"film"


@pytest.mark.parametrize(("hook", "transport"), combinations("result", "progress", "error", "stop"))
def test_a_generation(open_page: Open, chat: App, hook: str, transport: str) -> None:
    """
    A hook shows progress and its result, and after a reset nothing. It shows a failure, and a stop ends the generation
    on the server.
    """
    slot = slot_of(hook, transport, "one")
    page = opened(open_page, hook, transport, network_fails=transport == "direct")
    generate(page, "a cat")
    told = wait_status(page, "success")
    check_result(chat.url, hook, told)
    assert len(told["results"]) == 1
    if transport != "direct":
        assert [10, "begun"] in told["progress"] or (hook == "video" and told["states"][0]["progress"] == 50)
        assert told["jobs"] == ([told["result"]["jobId"]] if hook == "video" else [])
    page.get_by_role("button", name="Reset").click()
    assert wait_status(page, "idle")["result"] is None

    generate(page, "fail")
    told = wait_status(page, "error")
    assert told["error"] == ("The provider is out of film." if hook == "video" else "The provider is out of paint.")
    assert told["errors"] == [told["error"]]

    generate(page, "wait")
    wait_status(page, "generating")
    wait_running(chat, slot)
    page.get_by_role("button", name="Stop").click()
    wait_status(page, "idle")
    assert wait_restored(chat, slot, "error")["error"]["code"] == "aborted"


@pytest.mark.parametrize(("hook", "transport"), combinations("reload midway", "second tab"))
def test_a_reload_and_a_second_tab(open_page: Open, chat: App, hook: str, transport: str) -> None:
    """
    A page that is reloaded during a generation joins it, like a second page that is opened then. Both get the result
    live, and a page that is opened later has it, too.
    """
    slot = slot_of(hook, transport, "two")
    first = opened(open_page, hook, transport, "two")
    generate(first, "wait")
    wait_status(first, "generating")
    wait_running(chat, slot)
    first.reload()
    second = opened(open_page, hook, transport, "two")
    for page in (first, second):
        wait_status(page, "generating")
    httpx.post(f"{chat.url}/go")
    for page in (first, second):
        check_result(chat.url, hook, wait_status(page, "success"))
    check_result(chat.url, hook, wait_status(opened(open_page, hook, transport, "two"), "success"), restored=True)


def wait_running(chat: App, slot: str) -> None:
    """The generation runs on the server."""
    wait_restored(chat, slot, "running")


def wait_restored(chat: App, slot: str, status: str) -> dict[str, Any]:
    """A page that is opened now is given this status. What else it is given."""
    deadline_s = time.monotonic() + SHOWN_MAX_MS / 1000
    while True:
        answer = httpx.get(f"{chat.url}/api/generate", params={"threadId": slot}, timeout=20)
        assert answer.status_code == 200, answer.text
        told: dict[str, Any] = answer.json()["resumeSnapshot"] or {}
        if told.get("status") == status:
            return told
        assert time.monotonic() < deadline_s, told
        time.sleep(0.02)
