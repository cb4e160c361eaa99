"""What each door sends of an answer that goes on after a crash, to a client that connects then."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.api.doors.agui_rules import check_rules
from tests.api.doors.answers import run_input, said
from tests.api.doors.states import Client
from tests.api.doors.test_ai_sdk import body
from tests.api.doors.test_ai_sdk import said as said_by_sdk
from tests.lines import lines_of
from tests.servers import Process, start_app
from tests.transcripts.logs import fold

APP = """
import asyncio
from pathlib import Path

from durable_chat import DurableChat, Settings

AGAIN, FINISH = Path("again"), Path("finish")

chat = DurableChat(settings=Settings(store="sqlite:///chat.db", after_crash="{mode}"), protocol=True)


@chat.tool
def look(item: str) -> str:
    "Look something up."
    return f"saw {{item}}"


async def forever():
    while not FINISH.exists():
        await asyncio.sleep(0.02)


@chat.model
async def answer(turn):
    words = str(turn.messages[0]["parts"][0]["content"]).split()
    seen = any(part["type"] == "tool-result" for message in turn.messages for part in message["parts"])
    if "tool" in words and not seen:
        yield "Looking. "
        yield {{"type": "TOOL_CALL_START", "toolCallId": "call-1", "toolCallName": "look"}}
        yield {{"type": "TOOL_CALL_ARGS", "toolCallId": "call-1", "delta": '{{"item":"it"}}'}}
        yield {{"type": "TOOL_CALL_END", "toolCallId": "call-1"}}
        yield {{"type": "RUN_FINISHED", "finishReason": "tool_calls"}}
        return
    if not AGAIN.exists():
        if "silent" not in words:
            yield {{"type": "REASONING_MESSAGE_CONTENT", "messageId": "thought", "delta": "Old thought."}}
            yield "Old words. "
        await asyncio.Event().wait()
    yield {{"type": "REASONING_MESSAGE_CONTENT", "messageId": "thought-2", "delta": "New thought."}}
    yield "New words. "
    await forever()
    yield "The end."
"""
"""
Its answers stop after "Old words. " in its first life, and later after "New words. ", until there is a file `finish`.
With `tool`, a call of a tool comes before; with `silent`, the first life says nothing after it.
"""

OLD, NEW, END = "Old words. ", "New words. ", "The end."
MAX_S = 60.0
"""A wait in these tests that lasts longer has failed."""

Events = list[dict[str, Any]]


class Going:
    """An answer that goes on after a crash, and stands at "New words. ". `before` is what a reader got until the crash."""

    def __init__(self, server: Process, view: str, before: Events, offset: str) -> None:
        self.server = server
        self.view = view
        self.before = before
        self.offset = offset

    def get(self, path: str, **query: str) -> httpx.Response:
        url = httpx.URL(self.server.url).join(path)
        answer = httpx.get(url, params={**url.params, **query}, timeout=MAX_S)
        assert answer.status_code == 200, answer.text
        return answer

    def lines(self, seen: threading.Barrier, method: str, path: str, body: Any = None) -> list[str]:
        """Return the lines of a response. At `seen`, it waits for the others until each is in the middle of the answer."""
        lines: list[str] = []
        waits = True
        with httpx.stream(method, self.server.url + path, json=body, timeout=MAX_S) as response:
            assert response.status_code == 200, response.read()
            for line in lines_of(response):
                lines.append(line)
                if waits and NEW in line:
                    waits = False
                    seen.wait(MAX_S)
        return lines

    def finish(self) -> None:
        (self.server.folder / "finish").touch()


def until_logged(server: Process, wanted: str) -> Events:
    """Follow the session until a chunk has this text, and return its chunks."""
    url = f"{server.url}/api/chat-stream?id=s&offset=0000000000000000_0000000000000000&live=sse"
    found: Events = []
    with httpx.stream("GET", url, timeout=MAX_S) as response:
        for line in lines_of(response):
            if line.startswith("data:["):
                found += json.loads(line.removeprefix("data:"))
                if any(wanted in str(chunk) for chunk in found):
                    return found
    raise AssertionError(f"{wanted!r} never came")


@pytest.fixture
def going(tmp_path: Path, processes: list[Process], mode: str, text: str) -> Going:
    server = start_app(tmp_path / "app", APP.format(mode=mode), processes)
    posted = body(said_by_sdk(text, "u1"))
    headers = {"X-Run-Id": "r1"}
    view = httpx.post(f"{server.url}/api/ai-sdk-durable", json=posted, headers=headers, timeout=MAX_S).json()[
        "streamUrl"
    ]
    until_logged(server, "saw it" if "silent" in text else OLD)
    made = Going(server, view, [], "")
    before = made.get(view, offset="-1")
    made.before, made.offset = before.json(), before.headers["stream-next-offset"]
    server.kill()
    (server.folder / "again").touch()
    server.start()
    until_logged(server, NEW)
    return made


@pytest.fixture(params=["retry", "continue"])
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=["hello", "tool", "silent tool"])
def text(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def deltas(chunks: Sequence[Mapping[str, Any]], kind: str) -> str:
    return "".join(chunk["delta"] for chunk in chunks if chunk["type"] == kind)


def told_by_sdk(chunks: Events) -> tuple[str, str]:
    """Return the text and the thoughts of a UI message stream."""
    return deltas(chunks, "text-delta"), deltas(chunks, "reasoning-delta")


def told_by_agui(events: Events) -> tuple[str, str]:
    """Return the text and the thoughts that a client of AG-UI has. A snapshot without thoughts leaves its own."""
    messages: dict[str, dict[str, Any]] = {}
    for event in events:
        if event["type"] == "MESSAGES_SNAPSHOT":
            shown = {message["id"]: message for message in event["messages"]}
            has_thoughts = any(message["role"] == "reasoning" for message in event["messages"])
            kept = {} if has_thoughts else {key: one for key, one in messages.items() if one["role"] == "reasoning"}
            messages = {**kept, **{key: {"content": "", **message} for key, message in shown.items()}}
        elif event["type"] in ("TEXT_MESSAGE_START", "REASONING_MESSAGE_START"):
            messages.setdefault(event["messageId"], {"role": event["role"], "content": ""})
        elif event["type"] in ("TEXT_MESSAGE_CONTENT", "REASONING_MESSAGE_CONTENT"):
            messages[event["messageId"]]["content"] += event["delta"]
    of = {role: "".join(one["content"] for one in messages.values() if one["role"] == role) for role in ROLES}
    return of["assistant"], of["reasoning"]


ROLES = ("assistant", "reasoning")


def told_by(messages: Sequence[Mapping[str, Any]], parts: str, field: str, thought: str) -> tuple[str, str]:
    """Return the text and the thoughts of the answers in messages."""
    found = [part for message in messages if message["role"] == "assistant" for part in message[parts]]
    texts = ["".join(part[field] for part in found if part["type"] == kind) for kind in ("text", thought)]
    return texts[0], texts[1]


def wanted(mode: str, text: str) -> tuple[str, str]:
    """Return the text and the thoughts of the answer in the end."""
    stays = mode == "continue" and "silent" not in text
    looking = "Looking. " if "tool" in text else ""
    return looking + (OLD if stays else "") + NEW + END, ("Old thought." if stays else "") + "New thought."


def sse(lines: Sequence[str]) -> Events:
    """Return the values of the `data` lines. A line of a Durable Stream holds several."""
    found: Events = []
    for line in lines:
        data = line.removeprefix("data:").strip()
        if line.startswith("data:") and data[:1] in "[{" and data != "[DONE]" and "streamNextOffset" not in data:
            value = json.loads(data)
            found += value if isinstance(value, list) else [value]
    return found


def read_to_the_end(going: Going, text: str) -> dict[str, list[str]]:
    """Connect to every door in the middle of the answer, let it come to its end, and return the lines of each response."""
    durable = going.get("/api/ai-sdk-durable/s/stream").json()["streamUrl"]
    requests: dict[str, tuple[Any, ...]] = {
        "ai sdk": ("GET", "/api/ai-sdk/s/stream"),
        "durable": ("GET", f"{durable}&offset=-1&live=sse"),
        "copilotkit": ("POST", "/api/copilotkit/agent/default/connect", {"threadId": "s"}),
        "assistant-ui": ("POST", "/api/assistant-transport", {"threadId": "s", "commands": []}),
        "ag-ui": ("POST", "/api/agui", run_input(said(text), run="r1")),
        "tanstack": ("GET", "/api/chat?threadId=s&runId=r1&offset=-1"),
    }
    with ThreadPoolExecutor(len(requests)) as pool:
        seen = threading.Barrier(len(requests) + 1)
        reading = {name: pool.submit(going.lines, seen, *request) for name, request in requests.items()}
        seen.wait(MAX_S)
        going.finish()
        return {name: future.result(MAX_S) for name, future in reading.items()}


def test_what_clients_get(going: Going, mode: str, text: str) -> None:
    """
    Whoever connects meanwhile gets the answer as the transcript has it: once, and without what a retry dropped. A stream
    of the AI SDK that was read before goes on at its offset, and keeps what was dropped.
    """
    lines = read_to_the_end(going, text)
    messages = going.get("/api/chat-snapshot?id=s").json()["messages"]
    said_in_the_end = wanted(mode, text)
    assert told_by(messages, "parts", "content", "thinking") == said_in_the_end
    for name in ("ai sdk", "durable"):
        chunks = sse(lines[name])
        assert told_by_sdk(chunks) == said_in_the_end, name
        assert chunks[0] == {"type": "start", "messageId": messages[1]["id"]}
        assert chunks[-1]["type"] == "finish"
    for name in ("copilotkit", "ag-ui"):
        events = sse(lines[name])
        check_rules(events, modern=False)
        told = told_by_agui(events)
        assert told[0] == said_in_the_end[0], name
        assert told[1] == said_in_the_end[1] or name == "ag-ui", name
    state = Client()
    state.take("".join(f"{line}\n" for line in lines["assistant-ui"]).encode())
    assert told_by(state.state["messages"], "content", "text", "reasoning") == said_in_the_end
    assert state.state["isRunning"] is False
    assert told_by(fold(sse(lines["tanstack"])), "parts", "content", "thinking") == said_in_the_end
    check_stream_read_before(going, mode, text)


def check_stream_read_before(going: Going, mode: str, text: str) -> None:
    rest = going.get(going.view, offset=going.offset)
    assert rest.headers["stream-closed"] == "true"
    whole = going.get(going.view, offset="-1").json()
    assert going.before + rest.json() == whole
    dropped = OLD if mode == "retry" and "silent" not in text else ""
    said_in_the_end = wanted(mode, text)[0]
    assert told_by_sdk(whole)[0] == said_in_the_end.replace(NEW, dropped + NEW)
    (resumed,) = [chunk for chunk in whole if chunk["type"] == "data-durable-chat.run-resumed"]
    assert resumed["transient"] is True
    late = going.get(f"/api/ai-sdk-durable/s/stream?runId={resumed['data']['runId']}&from=-1").json()["streamUrl"]
    assert told_by_sdk(going.get(late, offset="-1").json()) == wanted(mode, text)
