"""
A chat whose model does what the user's message says, and is held at gates until the test lets it go on.

Served by uvicorn as `steered:app`; GATES is the port of the test's own end. What is said to it is a fact before
anything of it is in the log: each time the model is asked, with what it was given.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

from durable_chat import DurableChat
from durable_chat.models.base import ProviderError, Turn, last_user_text

GATES_PORT = int(os.environ["GATES"])
PARAMETERS = {"type": "object", "properties": {"hang": {"type": "boolean"}}}

chat = DurableChat("sqlite:///chat.db", protocol=True, page=False)
app = chat.app
steps = Counter[str]()
words = Counter[str]()
calls = Counter[str]()


async def tell(turn: Turn, event: str, **more: Any) -> None:
    """Say where a run is, and wait until the test answers."""
    reader, writer = await asyncio.open_connection("127.0.0.1", GATES_PORT)
    try:
        writer.write(json.dumps({"event": event, "session": turn.session_id, "run": turn.run_id, **more}).encode())
        writer.write(b"\n")
        await writer.drain()
        await reader.readline()
    finally:
        writer.close()


@chat.tool
async def look(hang: bool, turn: Turn) -> str:
    """Looks."""
    if hang:
        await tell(turn, "hold", at="look")
    return "seen"


@chat.tool(needs_approval=True)
async def save(hang: bool, turn: Turn) -> str:
    """Saves."""
    if hang:
        await tell(turn, "hold", at="save")
    return "saved"


chat.client_tool("locate", description="Locates.", parameters=PARAMETERS)


@chat.model
async def answer(turn: Turn) -> AsyncIterator[Any]:
    """One step of the model: the plan is what the user's message says after its first word."""
    step = steps[turn.run_id]
    steps[turn.run_id] += 1
    await tell(turn, "asked", step=step, messages=list(turn.messages))
    plan = last_user_text(turn).split()[1:]
    if turn.messages[-1]["role"] != "user":  # with results, in the same run or in the next one
        plan = ["text"] if step else ["text", "hold", "text"]
    called = False
    for act in plan:
        called = called or act.rpartition("-")[2] in ("look", "save", "locate")
        async for chunk in perform(turn, act):
            yield chunk
    if called:
        yield {"type": "RUN_FINISHED", "finishReason": "tool_calls"}


async def perform(turn: Turn, act: str) -> AsyncIterator[Any]:
    """`hold`, `think`, `text`, `fail`, `ask`, or a tool's name: with `hang-` it hangs, with `args-` its arguments do."""
    if act == "hold":
        await tell(turn, "hold", at="hold")
    elif act == "fail":
        raise ProviderError("It failed.", "failed")
    elif act == "think":
        for piece in ("hm", ", so"):
            yield {"type": "REASONING_MESSAGE_CONTENT", "messageId": f"{turn.run_id}-r", "delta": piece}
    elif act == "text":
        for _ in range(2):
            yield f"[{turn.run_id[4:12]}.{words[turn.run_id]}]"
            words[turn.run_id] += 1
    else:
        async for chunk in call(turn, act):
            yield chunk


async def call(turn: Turn, act: str) -> AsyncIterator[Any]:
    how, _, name = act.rpartition("-")
    call_id = f"{turn.run_id}-{calls[turn.run_id]}"
    calls[turn.run_id] += 1
    asks = name == "ask"  # the model's own question to the client, in the middle of its run
    yield {"type": "TOOL_CALL_START", "toolCallId": call_id, "toolCallName": "locate" if asks else name}
    yield {"type": "TOOL_CALL_ARGS", "toolCallId": call_id, "delta": '{"hang":'}
    if how == "args":
        await tell(turn, "hold", at="args")
    yield {"type": "TOOL_CALL_ARGS", "toolCallId": call_id, "delta": "true}" if how == "hang" else "false}"}
    yield {"type": "TOOL_CALL_END", "toolCallId": call_id}
    if asks:
        value = {"toolCallId": call_id, "toolName": "locate", "input": {"hang": False}}
        yield {"type": "CUSTOM", "name": "tool-input-available", "value": value}
