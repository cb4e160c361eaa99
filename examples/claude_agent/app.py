"""The Claude Agent SDK, with a tool, behind a durable chat."""

import os
from collections.abc import AsyncIterator
from typing import Any

from claude_agent_sdk import ClaudeAgentOptions, create_sdk_mcp_server, query, tool

from durable_chat import DurableChat, Turn, from_claude_agent

chat = DurableChat("sqlite:///chat.db")
app = chat.app


@tool("weather", "The weather in a city.", {"city": str})
async def weather(given: dict[str, Any]) -> dict[str, Any]:
    return {"content": [{"type": "text", "text": f"It is sunny in {given['city']}."}]}


options = ClaudeAgentOptions(
    system_prompt="You are a friendly weather expert.",
    mcp_servers={"app": create_sdk_mcp_server("app", tools=[weather])},
    tools=[],  # none of the tools that read files and run commands
    allowed_tools=["mcp__app__weather"],
    setting_sources=[],  # nothing from the settings of the machine
    include_partial_messages=True,
    cli_path=os.environ.get("CLAUDE_CLI"),  # by default, the program that the package brings
)


@chat.model
async def answer(turn: Turn) -> AsyncIterator[Any]:
    """Return the agent's run: its text, thinking, tool calls, results and usage."""
    return from_claude_agent(query(prompt=turn.claude_agent_prompt(), options=options))
