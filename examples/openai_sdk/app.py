"""OpenAI's own client, with a tool, behind a durable chat."""

import os
from collections.abc import AsyncIterator
from typing import Any

from openai import AsyncOpenAI

from durable_chat import DurableChat, Turn

MODEL = os.environ.get("MODEL", "gpt-5-mini")
client = AsyncOpenAI()  # reads OPENAI_API_KEY, and OPENAI_BASE_URL for another server that speaks the same API
chat = DurableChat("sqlite:///chat.db")
app = chat.app


@chat.tool
def weather(city: str) -> str:
    """The weather in a city."""
    return f"It is sunny in {city}."


@chat.model
async def answer(turn: Turn) -> AsyncIterator[Any]:
    """Yield text and tool calls. The chat runs the tools and calls this function again with their results."""
    messages: Any = await turn.openai_messages()
    ids: dict[int, str] = {}
    async for chunk in await client.chat.completions.create(
        model=MODEL, messages=messages, tools=[as_openai(tool) for tool in turn.tools], stream=True
    ):
        for choice in chunk.choices:
            yield choice.delta.content
            for call in choice.delta.tool_calls or ():
                if call.id and call.function:
                    ids[call.index] = call.id
                    yield {"type": "TOOL_CALL_START", "toolCallId": call.id, "toolCallName": call.function.name}
                if call.function:
                    yield {"type": "TOOL_CALL_ARGS", "toolCallId": ids[call.index], "delta": call.function.arguments}


def as_openai(tool: Any) -> Any:
    function = {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
    return {"type": "function", "function": function}
