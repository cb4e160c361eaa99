"""An agent of pydantic-ai, with a tool, behind a durable chat."""

import os
from collections.abc import AsyncIterator

from ag_ui.core import BaseEvent, RunAgentInput
from pydantic_ai import Agent
from pydantic_ai.ui.ag_ui import AGUIAdapter

from durable_chat import DurableChat, Turn

# "test" is pydantic-ai's own test model, which calls every tool once and needs no key.
agent = Agent(os.environ.get("MODEL", "test"), instructions="You are a friendly weather expert.")

chat = DurableChat("sqlite:///chat.db")
app = chat.app


@agent.tool_plain
def weather(city: str) -> str:
    """The weather in a city."""
    return f"It is sunny in {city}."


@chat.model
async def answer(turn: Turn) -> AsyncIterator[BaseEvent]:
    """Yield the agent's AG-UI events: its text, its thinking, its tool calls and their results."""
    run = RunAgentInput(thread_id=turn.session_id, run_id=turn.run_id, messages=[], tools=[], context=[])
    async for event in AGUIAdapter(agent, run, include_usage=True).run_stream(
        message_history=await turn.pydantic_ai_messages()
    ):
        yield event
