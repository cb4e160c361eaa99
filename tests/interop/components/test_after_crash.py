"""What the pages of CopilotKit and assistant-ui show, without a reload, when an answer goes on after a crash."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from tests.interop.components import test_copilotkit as copilotkit
from tests.interop.components import threads as assistant_ui
from tests.interop.components.conftest import Open, Transcript
from tests.interop.components.threads import texts_of
from tests.servers import Process, start_app
from tests.web.tabs import SHOWN_MAX_MS

ENDLESS = """
import asyncio
import itertools

from durable_chat import DurableChat, Settings

chat = DurableChat(settings=Settings(store="sqlite:///chat.db", after_crash="{mode}"))

@chat.model
async def answer(turn):
    for number in itertools.count():
        yield f"word{{number}} "
        await asyncio.sleep(0.03)
"""


@pytest.fixture(params=["retry", "continue"])
def chat(tmp_path: Path, processes: list[Process], request: pytest.FixtureRequest) -> Process:
    """A server whose answers go on after a crash, until they are stopped."""
    return start_app(tmp_path / "chat", ENDLESS.format(mode=request.param), processes)


def stop(chat: Process, session: str) -> None:
    """Stop the answer as another page does. The own button would close the connection before the last words."""
    assert httpx.post(f"{chat.url}/api/chat-stop", params={"id": session}, timeout=20).json()["stopped"]


def test_copilotkit(open_page: Open, chat: Process, session: str, transcript: Transcript) -> None:
    """With the guide's lines, the page follows the answer again and shows what the server has."""
    page = open_page("copilotkit", network_fails=True, live="")
    copilotkit.say(page, "hello")
    copilotkit.wait_for_growth(page)
    chat.restart()
    page.wait_for_function("document.body.dataset.error", timeout=SHOWN_MAX_MS)
    copilotkit.wait_for_growth(page)
    stop(chat, session)
    copilotkit.answers(page, 1)
    messages = transcript()
    assert messages[-1]["metadata"]["durableChat"]["run"]["status"] == "stopped"
    assert copilotkit.shown(page) == texts_of(messages)


@pytest.mark.parametrize("runtime", ["transport", "ag-ui"])
def test_assistant_ui(open_page: Open, chat: Process, session: str, transcript: Transcript, runtime: str) -> None:
    """With the guide's lines, the page follows the answer again and shows what the server has."""
    page = open_page("assistant-ui", network_fails=True, runtime=runtime)
    assistant_ui.say(page, "hello")
    assistant_ui.wait_for_growth(page)
    chat.restart()
    page.wait_for_function("document.body.dataset.error", timeout=SHOWN_MAX_MS)
    assistant_ui.wait_for_growth(page)
    stop(chat, session)
    assistant_ui.idle(page)
    messages = transcript()
    assert messages[-1]["metadata"]["durableChat"]["run"]["status"] == "stopped"
    assert assistant_ui.shown(page) == texts_of(messages)
