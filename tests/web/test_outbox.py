"""Unsent messages and drafts survive while the server is down, and none is lost."""

from __future__ import annotations

import re
import time
from pathlib import Path

from playwright.sync_api import BrowserContext, FilePayload, Locator, Page, expect

from tests.conftest import Serve
from tests.gates import reload_slowly
from tests.servers import READY_MAX_S, Process, Server, start_app
from tests.web.tabs import Tabs, address, answers, session_of, snapshot, state, told, wait_done, write

QUICK = {"DURABLE_CHAT_DEMO_DELAY_MS": "2"}
WAITING = "Waiting to be sent"

# A model that repeats each message and counts its calls.
COUNTS = """
from durable_chat import DurableChat

chat = DurableChat("sqlite:///chat.db")

@chat.model
async def answer(turn):
    with open("asked.txt", "a") as file:
        file.write(turn.messages[-1]["parts"][0]["content"] + "\\n")
    yield "You wrote: " + turn.messages[-1]["parts"][0]["content"]
"""


def away(context: BrowserContext) -> None:
    """Make the server unreachable while the page itself still loads, as from a cache."""
    context.route("**/api/**", lambda route: route.abort())


def back(context: BrowserContext) -> None:
    context.unroute("**/api/**")


def message(page: Page, text: str) -> Locator:
    return page.locator(".message.user", has_text=text)


def asked(process: Process) -> list[str]:
    path = process.folder / "asked.txt"
    return path.read_text().splitlines() if path.exists() else []


def test_server_down_for_a_while(tmp_path: Path, processes: list[Process], tabs: Tabs) -> None:
    """
    Messages written while the server is down are shown as waiting, and are sent when it is back, once and in order.
    """
    tabs.network_fails = True
    server = start_app(tmp_path / "app", COUNTS, processes)
    page = tabs.open(server.url)
    server.kill()
    write(page, "first")
    write(page, "second")
    for text in ("first", "second"):
        expect(message(page, text)).to_contain_text(WAITING)
    server.start()
    expect(answers(page)).to_have_count(2)
    wait_done(page)
    expect(page.get_by_text(WAITING)).to_have_count(0)
    assert page.locator(".message.user .body").all_inner_texts() == ["first", "second"]
    assert asked(server) == ["first", "second"]


def test_reloaded_while_it_waits(tmp_path: Path, processes: list[Process], tabs: Tabs) -> None:
    """A waiting message is there after reloads, in every tab of its chat, and one of them sends it, once."""
    tabs.network_fails = True
    server = start_app(tmp_path / "app", COUNTS, processes)
    page = tabs.open(server.url)
    away(page.context)
    write(page, "kept")
    expect(message(page, "kept")).to_contain_text(WAITING)
    page.reload()
    expect(message(page, "kept")).to_contain_text(WAITING)
    second = page.context.new_page()
    second.goto(page.url)
    expect(message(second, "kept")).to_contain_text(WAITING)
    back(page.context)
    for tab in (page, second):
        expect(answers(tab).locator(".body")).to_have_text(["You wrote: kept"])
        expect(tab.get_by_text(WAITING)).to_have_count(0)
        expect(tab.locator(".message.user")).to_have_count(1)
    assert asked(server) == ["kept"]


def test_tab_closed_while_it_waits(tmp_path: Path, processes: list[Process], tabs: Tabs) -> None:
    """The next tab that opens, also on another chat, sends the waiting message of a closed tab."""
    tabs.network_fails = True
    server = start_app(tmp_path / "app", COUNTS, processes)
    page = tabs.open(f"{server.url}/?id=a")
    server.kill()
    write(page, "left behind")
    expect(message(page, "left behind")).to_contain_text(WAITING)
    context = page.context
    page.close()
    server.start()
    other = context.new_page()
    other.goto(f"{server.url}/?id=b")
    deadline = time.monotonic() + READY_MAX_S
    while not asked(server):
        assert time.monotonic() < deadline, "nobody sent it"
        other.wait_for_timeout(50)
    other.goto(f"{server.url}/?id=a")
    expect(answers(other).locator(".body")).to_have_text(["You wrote: left behind"])
    assert asked(server) == ["left behind"]


def test_offline(serve: Serve, tabs: Tabs) -> None:
    """Without a network a message waits. It is sent when the network is back."""
    tabs.network_fails = True
    server = serve(**QUICK)
    page = tabs.open(server.url)
    page.context.set_offline(True)
    write(page, "hello from the train")
    expect(message(page, "hello")).to_contain_text(WAITING)
    page.context.set_offline(False)
    expect(answers(page)).to_have_count(1)
    assert wait_done(page) == told(server, session_of(page))


def test_taken_back(serve: Serve, tabs: Tabs) -> None:
    """A waiting message can be withdrawn: its text returns to the composer, and it is never sent."""
    tabs.network_fails = True
    server = serve(**QUICK)
    page = tabs.open(server.url)
    server.kill()
    write(page, "not like this")
    message(page, "not like this").get_by_role("button", name="Take back").click()
    expect(page.locator(".message")).to_have_count(0)
    expect(page.get_by_label("Message", exact=True)).to_have_value("not like this")
    server.start()
    expect(state(page)).to_have_attribute("data-state", "live")
    write(page, "but like that")
    wait_done(page)
    [first, _] = snapshot(server, session_of(page))["messages"]
    assert first["parts"] == [{"type": "text", "content": "but like that"}]


def test_refused(serve: Serve, tabs: Tabs) -> None:
    """A refused message stays over a reload, with the reason, and can be retried or withdrawn."""
    tabs.network_fails = True
    server = serve(**QUICK, DURABLE_CHAT_BODY_MAX_BYTES="2000")
    page = tabs.open(server.url)
    text = "word " * 1000
    write(page, text)
    alert = page.locator(".message.user").get_by_role("alert")
    expect(alert).to_be_visible()
    page.reload()
    expect(alert).to_be_visible()
    alert.get_by_role("button", name="Try again").click()
    expect(alert).to_be_visible()
    alert.get_by_role("button", name="Take back").click()
    expect(page.locator(".message")).to_have_count(0)
    expect(page.get_by_label("Message", exact=True)).to_have_value(text.strip())
    write(page, "short")
    assert wait_done(page) == told(server, session_of(page))


def test_too_large_to_keep(serve: Serve, tabs: Tabs) -> None:
    """A message too large for the browser's storage says so, waits in its tab and is sent from there."""
    tabs.network_fails = True
    server = serve(**QUICK)
    page = tabs.open(server.url)
    server.kill()
    file = FilePayload(name="noise.bin", mimeType="application/octet-stream", buffer=b"x" * 8_000_000)
    page.locator("#files").set_input_files([file])
    expect(page.locator(".attached")).to_have_count(1)
    write(page, "with a file")
    expect(message(page, "with a file")).to_contain_text("leave this tab open")
    server.start()
    expect(answers(page)).to_have_count(1)
    wait_done(page)
    expect(page.get_by_text(WAITING)).to_have_count(0)


def test_drafts(serve: Serve, tabs: Tabs) -> None:
    """A draft survives a reload, stays with its chat, and disappears in every tab once it is sent."""
    server = serve(**QUICK)
    page = tabs.open(address(server, "one"))
    box = page.get_by_label("Message", exact=True)
    box.fill("half a thought")
    page.reload()
    expect(box).to_have_value("half a thought")
    page.get_by_role("button", name="New chat").click()
    expect(box).to_have_value("")
    box.fill("another")
    page.go_back()
    expect(box).to_have_value("half a thought")
    second = tabs.beside(page, address(server, "one"))
    expect(second.get_by_label("Message", exact=True)).to_have_value("half a thought")
    box.press("Enter")
    wait_done(page)
    for tab in (page, second):
        expect(tab.get_by_label("Message", exact=True)).to_have_value("")
    page.reload()
    expect(box).to_have_value("")
    page.go_forward()
    expect(box).to_have_value("another")


def test_drafts_and_waiting_go_with_their_chat(server: Server, tabs: Tabs) -> None:
    """Deleting a chat deletes its draft and its waiting messages."""
    tabs.network_fails = True
    page = tabs.open(address(server, "one"))
    write(page, "hello")
    wait_done(page)
    away(page.context)
    write(page, "never sent")
    expect(message(page, "never sent")).to_contain_text(WAITING)
    page.get_by_label("Message", exact=True).fill("a draft")
    page.get_by_role("button", name="Delete “hello”").click()
    page.get_by_role("button", name="Delete", exact=True).click()
    expect(page.locator(".message")).to_have_count(0)
    kept = page.evaluate("() => Object.keys(localStorage).filter(key => /outbox|draft/.test(key))")
    assert kept == []


def test_a_message_before_the_chat_has_arrived(tmp_path: Path, processes: list[Process], tabs: Tabs) -> None:
    """A message that is written while the page loads is sent, and the page shows it after the earlier ones."""
    server = start_app(tmp_path / "app", COUNTS, processes)
    page = tabs.open(server.url)
    write(page, "hello")
    wait_done(page)
    gate = reload_slowly(page, re.compile("/api/(chat-snapshot|chat-stream|events)"))
    write(page, "and now")
    gate.open()
    expect(answers(page)).to_have_count(2)
    assert wait_done(page) == told(server, session_of(page))
    expect(page.locator(".message.user")).to_contain_text(["hello", "and now"])
