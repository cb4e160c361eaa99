"""Examples in Python: each is started by the command of its README and answers over HTTP, without a key."""

from __future__ import annotations

from typing import Any

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
