"""Tools: their description for models, and a result in every case."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
import pytest

from durable_chat.models.base import ToolSpec, Turn
from durable_chat.models.tools import (
    RESULT_BYTES_MAX,
    TOOLS_MAX,
    Tool,
    ToolError,
    Tools,
    make_tool,
    posted_spec,
)

TURN = Turn(messages=(), session_id="s", run_id="r")


@dataclass
class Place:
    city: str
    zip: int | None = None


async def weather(place: Place, unit: Literal["c", "f"] = "c") -> dict[str, Any]:
    """Tells the weather."""
    return {"city": place.city, "unit": unit}


def told(tool: Tool) -> tuple[str, str, Any]:
    return tool.spec.name, tool.spec.description, tool.spec.parameters


def test_the_hints_of_a_function_are_its_schema() -> None:
    """The schema is an object at the top, as providers require, with the application's types beside it."""
    name, description, schema = told(make_tool(weather))
    assert (name, description) == ("weather", "Tells the weather.")
    assert (schema["type"], schema["required"]) == ("object", ["place"])
    assert schema["properties"]["place"] == {"$ref": "#/$defs/Place"}
    assert schema["properties"]["unit"]["enum"] == ["c", "f"]
    assert schema["$defs"]["Place"]["required"] == ["city"]


async def test_arguments_become_what_the_hints_say() -> None:
    result = await make_tool(weather).call('{"place":{"city":"Rome"}}', TURN)
    assert (result.content, result.failed) == ('{"city":"Rome","unit":"c"}', False)


def test_a_schema_of_ones_own() -> None:
    """A tool's own schema, name and description are passed on unchanged."""
    schema = {"type": "object", "properties": {"x": {"type": "integer", "minimum": 1}}}
    assert told(make_tool(lambda x: x, name="plus", description="Adds.", parameters=schema)) == (
        "plus",
        "Adds.",
        schema,
    )


async def test_the_turn_is_given_to_who_asks_for_it() -> None:
    """The Turn parameter is not in the schema, and the model cannot set it."""

    def whose(turn: Turn, loud: bool = False) -> str:
        return turn.session_id.upper() if loud else turn.session_id

    tool = make_tool(whose)
    assert list(tool.spec.parameters["properties"]) == ["loud"]
    assert (await tool.call('{"loud":true}', TURN)).content == "S"
    assert (await tool.call('{"turn":1}', TURN)).failed


def spread(*values: int) -> int:
    return sum(values)


def unknown(value: threading.Lock) -> None: ...


@pytest.mark.parametrize("function", [spread, unknown])
def test_what_cannot_be_told_to_a_model_is_refused(function: Callable[..., Any]) -> None:
    with pytest.raises(TypeError):
        make_tool(function)


@pytest.mark.parametrize(
    "arguments",
    ["{", "[]", "1", "{}", '{"place":1}', '{"place":{"city":2}}', '{"place":{"city":"x"},"unit":"k"}', '{"x":1}'],
)
async def test_wrong_arguments_are_a_result(arguments: str) -> None:
    """Invalid arguments give the model an error as the result, before any approval is requested."""
    tool = make_tool(weather)
    result = await tool.call(arguments, TURN)
    assert result.failed
    assert msgspec.json.decode(result.content)["error"].startswith("The arguments")
    assert tool.check(arguments) == result


async def test_wrong_arguments_to_a_schema_of_ones_own() -> None:
    tool = make_tool(lambda x: x, name="plus", parameters={"type": "object"})
    assert (await tool.call('{"y":1}', TURN)).failed
    assert (await tool.call('{"x":1}', TURN)).content == "1"


def raises(error: Exception) -> Callable[[], Any]:
    def tool() -> None:
        raise error

    return tool


@pytest.mark.parametrize(
    ("function", "shown"),
    [
        (raises(ToolError("No net.")), "No net."),
        (raises(ToolError("x" * 5000)), "x" * 1000),
        (raises(OSError("a password")), "The tool failed."),
        (raises(StopIteration()), "The tool failed."),
        (raises(TimeoutError()), "The tool did not finish in time."),
        (lambda: object(), "The tool returned a value that cannot be written as JSON."),
        (lambda: "x" * (RESULT_BYTES_MAX + 1), "The tool returned more than can be stored."),
    ],
)
async def test_errors_are_results(function: Callable[[], Any], shown: str) -> None:
    """A failed tool's result has the message of a ToolError, and no other exception's."""
    result = await make_tool(function, name="tool").call("", TURN)
    assert (msgspec.json.decode(result.content), result.failed) == ({"error": shown}, True)


async def test_a_tool_that_hangs_is_left() -> None:
    """The server continues and can shut down, whether the hanging tool is synchronous or not."""
    never = threading.Event()

    async def sleeps() -> None:
        await asyncio.Event().wait()

    for function in (sleeps, never.wait):
        result = await make_tool(function, name="slow", parameters={}, timeout_s=0.05).call("{}", TURN)
        assert "in time" in result.content
    never.set()


async def test_a_function_that_blocks_does_not_hold_up_the_server() -> None:
    """A blocking function runs in a thread. If it returns an awaitable, the loop awaits it."""
    threads: list[str] = []

    def blocks() -> str:
        threads.append(threading.current_thread().name)
        return "done"

    async def later() -> str:
        return "later"

    assert (await make_tool(blocks).call("{}", TURN)).content == "done"
    assert threads == ["tool"]
    assert (await make_tool(lambda: later(), name="later").call("{}", TURN)).content == "later"


def test_names() -> None:
    """Names are unique and valid for providers."""
    tools = Tools([make_tool(weather)])
    for wrong in (make_tool(weather), Tool(ToolSpec("a b")), Tool(ToolSpec("")), Tool(ToolSpec("x" * 65))):
        with pytest.raises(ValueError, match="tool"):
            tools.add(wrong)
    for number in range(TOOLS_MAX - 1):
        tools.add(Tool(ToolSpec(f"t{number}")))
    with pytest.raises(ValueError, match="at most"):
        tools.add(Tool(ToolSpec("one-more")))
    assert tools.server_names == {"weather"}


@pytest.mark.parametrize(
    ("value", "spec"),
    [
        (
            {"name": "a", "description": "d", "parameters": {"type": "object", "x": 1}},
            ToolSpec("a", "d", {"type": "object", "x": 1}),
        ),
        ({"name": "a"}, ToolSpec("a")),
        ({"name": "a", "description": 1, "parameters": {"type": "string"}}, ToolSpec("a")),
        ({"name": "a b"}, None),
        ({"name": 1}, None),
        (1, None),
    ],
)
def test_posted_tools(value: Any, spec: ToolSpec | None) -> None:
    """Invalid posted tools are skipped."""
    assert posted_spec(value) == spec
