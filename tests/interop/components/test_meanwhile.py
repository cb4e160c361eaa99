"""Messages that are written during an answer, or before the session has arrived, in CopilotKit and assistant-ui."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.gates import reload_slowly
from tests.interop.components import test_copilotkit as copilotkit
from tests.interop.components import threads as assistant_ui
from tests.interop.components.conftest import Open, Transcript
from tests.interop.components.threads import texts_of
from tests.servers import Process, start_app

APP = """
import asyncio
import itertools

from durable_chat import DurableChat, Settings

chat = DurableChat(settings=Settings(store="memory://", turns="steer"))

@chat.model
async def answer(turn):
    for number in itertools.count():
        if "endless" not in turn.text or await turn.heard() is not None:
            yield "The end."
            return
        yield f"word{number} "
        await asyncio.sleep(0.03)
"""


@pytest.fixture
def chat(tmp_path: Path, processes: list[Process]) -> Process:
    """A server with an answer that ends when a message steers it, or when it is stopped."""
    return start_app(tmp_path / "chat", APP, processes)


def test_copilotkit_during_an_answer(open_page: Open, transcript: Transcript) -> None:
    """The component keeps the message until the answer has ended, and sends it then."""
    page = open_page("copilotkit")
    copilotkit.say(page, "endless")
    copilotkit.wait_for_growth(page)
    page.get_by_test_id("copilot-chat-textarea").fill("and now")
    page.keyboard.press("Enter")
    expect(page.get_by_test_id("copilot-chat-textarea")).to_have_value("")
    copilotkit.wait_for_growth(page)
    assert [message["role"] for message in transcript()].count("user") == 1
    page.get_by_test_id("copilot-send-button").click()
    copilotkit.answers(page, 2)
    assert copilotkit.shown(page) == texts_of(transcript())
    assert [message["role"] for message in transcript()].count("user") == 2


@pytest.mark.parametrize("runtime", ["transport", "ag-ui"])
def test_assistant_ui_during_an_answer(open_page: Open, runtime: str) -> None:
    """A message can be written, but not sent."""
    page = open_page("assistant-ui", runtime=runtime)
    assistant_ui.say(page, "endless")
    assistant_ui.wait_for_growth(page)
    page.get_by_label("Message").fill("and now")
    expect(page.get_by_role("button", name="Send")).to_be_disabled()
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_role("button", name="Send")).to_be_enabled()


def test_copilotkit_before_the_session_has_arrived(open_page: Open, transcript: Transcript) -> None:
    """The message waits for the session. Then the page shows both."""
    page = open_page("copilotkit")
    copilotkit.say(page, "hello")
    copilotkit.answers(page, 1)
    gate = reload_slowly(page, re.compile("/connect"))
    page.get_by_test_id("copilot-chat-textarea").fill("and now")
    page.keyboard.press("Enter")
    gate.open()
    copilotkit.answers(page, 2)
    assert copilotkit.shown(page) == texts_of(transcript())
    assert [message["role"] for message in transcript()].count("user") == 2
