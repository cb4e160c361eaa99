"""Examples in Python: each is started by the command of its README and answers over HTTP, without a key."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from tests import scripted_claude
from tests.completions import completions_served
from tests.examples.conftest import StartExample
from tests.examples.starting import Example


def text_of(message: dict[str, Any]) -> str:
    return "".join(part["content"] for part in message["parts"] if part["type"] == "text").strip()


def results(messages: list[dict[str, Any]]) -> list[str]:
    """What the tools gave."""
    return [part["output"] for message in messages for part in message["parts"] if part["type"] == "tool-call"]


def check_durable(example: Example, messages: list[dict[str, Any]]) -> None:
    """The page is served, the text came in pieces, and the chat is the same after a crash."""
    assert example.get("/").headers["content-type"].startswith("text/html")
    assert len(example.deltas()) > 1
    example.restart()
    assert example.messages() == messages


def test_fastapi_app(start: StartExample) -> None:
    """The model of the example answers, and a route of the application reads the chat."""
    example = start("fastapi_app")
    messages = example.post("hello there")
    assert [text_of(message) for message in messages] == ["hello there", "You wrote: hello there"]
    said = ["user: hello there", "assistant: You wrote: hello there"]
    assert example.get("/transcripts/demo").json() == said
    check_durable(example, messages)


def test_pydantic_ai(start: StartExample) -> None:
    """The agent calls its tool and says the result; the second turn sees the first, and so needs no tool."""
    example = start("pydantic_ai")
    assert results(example.post("hello")) == ["It is sunny in a."]
    messages = example.post("and now?")
    assert len(results(messages)) == 1
    assert "It is sunny in a." in text_of(messages[-1])
    check_durable(example, messages)


def test_langgraph(start: StartExample) -> None:
    """The graph calls its tool and says the result, in every turn."""
    example = start("langgraph")
    example.post("hello")
    messages = example.post("and now?")
    assert results(messages) == ["It is sunny in Rome."] * 2
    assert text_of(messages[-1]) == "The tool says: It is sunny in Rome."
    check_durable(example, messages)


def test_openai_sdk(start: StartExample) -> None:
    """The chat carries out the tool that the model calls, and the model says the result."""
    with completions_served() as address:
        example = start("openai_sdk", OPENAI_API_KEY="none", OPENAI_BASE_URL=address)
        messages = example.post("hello")
        assert results(messages) == ["It is sunny in Rome."]
        assert text_of(messages[-1]) == "It is sunny in Rome."
        check_durable(example, messages)


def thoughts(messages: list[dict[str, Any]]) -> list[str]:
    return [part["content"] for message in messages for part in message["parts"] if part["type"] == "thinking"]


def test_openai_agents(start: StartExample) -> None:
    """The agent calls its tool and says the result, in every turn."""
    example = start("openai_agents")
    example.post("hello")
    messages = example.post("and now?")
    assert results(messages) == ["It is sunny in Rome."] * 2
    assert text_of(messages[-1]) == "The tool says: It is sunny in Rome."
    check_durable(example, messages)


def test_openai_agents_asks_first(start: StartExample) -> None:
    """A tool that needs approval waits for a person, also over a crash; approved, the agent says what it returned."""
    example = start("openai_agents")
    messages = example.post("send a mail")
    (call,) = [part for part in messages[-1]["parts"] if part["type"] == "tool-call"]
    assert (call["state"], call["name"]) == ("approval-requested", "send_mail")
    example.restart()
    call |= {"state": "approval-responded", "approval": call["approval"] | {"approved": True}}
    query = {"id": "demo", "mode": "await"}
    answer = httpx.post(f"{example.url}/api/chat", params=query, json={"messages": messages}, timeout=30)
    assert answer.status_code == 200, answer.text
    assert results(example.messages()) == ["Sent to ada: hi"]
    assert text_of(example.messages()[-1]) == "The tool says: Sent to ada: hi"


def test_claude_agent(start: StartExample, tmp_path: Path) -> None:
    """The SDK runs its tool and its program says the result; thinking is kept, and a failure shows no secret."""
    example = start("claude_agent", CLAUDE_CLI=scripted_claude.install(tmp_path))
    example.post("hello")
    messages = example.post("and now?")
    assert results(messages) == ["It is sunny in Rome."] * 2
    assert thoughts(messages) == ["Hm, Rome."] * 2
    assert text_of(messages[-1]) == "The tool says: It is sunny in Rome."
    check_durable(example, messages)
    answer = httpx.post(f"{example.url}/api/chat", params={"id": "b", "mode": "await"}, json=user("fail"), timeout=30)
    assert answer.status_code == 502
    log = example.get("/api/chat-stream?id=b&offset=-1&live=long-poll").json()
    assert (log[-1]["code"], log[-1]["message"]) == ("authentication_failed", "The agent's key was not accepted.")
    assert "sk-1234567890" not in str(log)


def test_claude_agent_is_stopped(start: StartExample, tmp_path: Path) -> None:
    """A stop in the middle of an answer ends the SDK's program with it."""
    example = start("claude_agent", CLAUDE_CLI=scripted_claude.install(tmp_path))
    assert httpx.post(f"{example.url}/api/chat?id=demo", json=user("long"), timeout=30).status_code == 202
    wait_until(lambda: len(example.deltas()) > 3)
    pid = int((tmp_path / "pid").read_text())
    os.kill(pid, 0)
    httpx.post(f"{example.url}/api/chat-stop?id=demo", timeout=30).raise_for_status()
    assert example.snapshot()["lastRun"]["status"] == "stopped"
    wait_until(lambda: not is_running(pid))


def wait_until(fact: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 30
    while not fact():
        assert time.monotonic() < deadline_s
        time.sleep(0.05)


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def user(text: str) -> dict[str, Any]:
    return {"messages": [{"id": text, "role": "user", "parts": [{"type": "text", "content": text}]}]}
