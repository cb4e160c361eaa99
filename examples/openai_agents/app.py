"""An agent of the OpenAI Agents SDK, with a tool and a tool that asks first, behind a durable chat."""

import os
from collections.abc import AsyncIterator
from typing import Any

from agents import Agent, Runner, function_tool, set_tracing_disabled
from models import load_model

from durable_chat import DurableChat, Turn, from_openai_agents

chat = DurableChat("sqlite:///chat.db")
app = chat.app
set_tracing_disabled(True)  # otherwise the SDK sends traces to OpenAI


def weather(city: str) -> str:
    """The weather in a city."""
    return f"It is sunny in {city}."


@chat.tool(needs_approval=True)  # the chat executes the call when a person has approved it
def send_mail(to: str, text: str) -> str:
    """Send a mail."""
    return f"Sent to {to}: {text}"


agent = Agent(
    name="assistant",
    instructions="You are a friendly weather expert.",
    model=load_model(os.environ.get("MODEL", "test")),
    tools=[function_tool(weather), function_tool(send_mail, needs_approval=True)],
)


@chat.model
async def answer(turn: Turn) -> AsyncIterator[Any]:
    """Return the agent's run: its text, thinking, tool calls, results, handoffs and usage."""
    return from_openai_agents(Runner.run_streamed(agent, await turn.openai_responses_messages()))  # type: ignore[arg-type]
