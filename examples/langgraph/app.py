"""A LangGraph agent, with a tool, behind a durable chat."""

import json
import os
from collections.abc import AsyncIterator, Iterator
from typing import Any

from langchain_core.messages import AIMessageChunk, AnyMessage, ToolMessage
from langchain_core.tools import tool
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition
from models import load_model

from durable_chat import DurableChat, Turn


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
    """Yield text while the model writes it, and tool calls and results when a node of the graph has finished."""
    asked: Any = {"messages": await turn.langchain_messages()}
    async for mode, part in agent.astream(asked, stream_mode=["messages", "updates"]):
        if mode == "messages" and isinstance(part[0], AIMessageChunk):
            yield part[0].text
        elif isinstance(part, dict):  # updates
            for update in part.values():
                for event in tool_events(update["messages"]):
                    yield event


def tool_events(messages: list[AnyMessage]) -> Iterator[dict[str, Any]]:
    """The AG-UI events of the tool calls and tool results in some messages."""
    for message in messages:
        for call in getattr(message, "tool_calls", []):
            yield {"type": "TOOL_CALL_START", "toolCallId": call["id"], "toolCallName": call["name"]}
            yield {"type": "TOOL_CALL_ARGS", "toolCallId": call["id"], "delta": json.dumps(call["args"])}
            yield {"type": "TOOL_CALL_END", "toolCallId": call["id"]}
        if isinstance(message, ToolMessage):
            yield {"type": "TOOL_CALL_RESULT", "toolCallId": message.tool_call_id, "content": message.text}
