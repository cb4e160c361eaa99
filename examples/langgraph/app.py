"""A LangGraph agent, with a tool, behind a durable chat."""

import os
from collections.abc import AsyncIterator
from typing import Any

from langchain_core.tools import tool
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition
from models import load_model

from durable_chat import DurableChat, Turn, from_langgraph


@tool
def weather(city: str) -> str:
    """The weather in a city."""
    return f"It is sunny in {city}."


model = load_model(os.environ.get("MODEL", "test")).bind_tools([weather])


async def ask_model(state: MessagesState) -> dict[str, Any]:
    return {"messages": [await model.ainvoke(state["messages"])]}


graph = StateGraph(MessagesState)
graph.add_node("model", ask_model)
graph.add_node("tools", ToolNode([weather]))
graph.add_edge(START, "model")
graph.add_conditional_edges("model", tools_condition)
graph.add_edge("tools", "model")
agent = graph.compile()  # without a checkpointer: the chat keeps the messages

chat = DurableChat("sqlite:///chat.db")
app = chat.app


@chat.model
async def answer(turn: Turn) -> AsyncIterator[Any]:
    """Return the graph's run: its text, thinking, tool calls, results and usage."""
    asked: Any = {"messages": await turn.langchain_messages()}
    return from_langgraph(agent.astream(asked, stream_mode=["messages", "updates"]))
