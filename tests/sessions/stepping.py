"""
An application with tools whose process kills itself at chosen points of a tool loop.

Start it with uvicorn as `stepping:chat.app`. The model calls tools as the newest user message says, one step for each
word: `look` (a plain tool), `order` (an idempotent one), `pay` (one that needs approval). The last step is a text. A tool
that runs appends a line to calls.txt. DIE_AT and DIE are as in dying.py; DIE_IN names a tool in which the process
dies.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from durable_chat import DurableChat, IdempotencyKey, Turn
from tests.sessions import dying  # it replaces the store by one that dies

DIE_IN = os.environ.get("DIE_IN", "")
CALLS = Path("calls.txt")
CHUNKS = int(os.environ.get("TEXT_CHUNKS", "3"))
DELAY_S = float(os.environ.get("TEXT_DELAY_S", "0.005"))

chat = DurableChat("sqlite:///stepping.db", protocol=True)


def note(tool: str, item: str, key: str) -> None:
    with CALLS.open("a") as file:
        file.write(f"{tool} {item} {key}\n")
    if tool == DIE_IN:
        os.kill(os.getpid(), signal.SIGKILL)


@chat.tool
def look(item: str, key: IdempotencyKey) -> str:
    """Look something up."""
    note("look", item, key)
    return f"saw {item}"


@chat.tool(idempotent=True)
def order(item: str, key: IdempotencyKey) -> str:
    """Order something."""
    note("order", item, key)
    return f"ordered {item}"


@chat.tool(needs_approval=True)
def pay(item: str, key: IdempotencyKey) -> str:
    """Pay for something."""
    note("pay", item, key)
    return f"paid {item}"


@chat.model
async def answer(turn: Turn) -> AsyncIterator[Any]:
    asked = next(
        message for message in reversed(turn.messages) if message["role"] == "user" and "go-on" not in message["id"]
    )
    words = str(asked["parts"][0]["content"]).split()
    answers = [message for message in turn.messages[turn.messages.index(asked) :] if message["role"] == "assistant"]
    said = [part for message in answers for part in message["parts"]]
    before = "".join(part["content"] for part in said if part["type"] == "text")
    done = sum(part["type"] == "tool-result" for part in said)
    word = words[done] if done < len(words) else "text"
    text = f"Step {done}. "
    if word == "text":
        text += "".join(f"word{number} " for number in range(CHUNKS))
    goes_on = turn.messages[-1]["id"].startswith("go-on")
    rest = text.removeprefix(before[before.rindex("Step") :]) if goes_on else text
    for piece in rest.split(" ")[:-1]:
        yield f"{piece} "
        if dying.DIE_AT:
            await turn.saved()  # a process that dies at a piece has not written the next ones, nor the end
        await asyncio.sleep(DELAY_S)
    if word == "text":
        yield {"type": "RUN_FINISHED", "finishReason": "stop"}
        return
    call_id = f"call-{done}"
    yield {"type": "TOOL_CALL_START", "toolCallId": call_id, "toolCallName": word}
    yield {"type": "TOOL_CALL_ARGS", "toolCallId": call_id, "delta": '{"item":'}
    await asyncio.sleep(DELAY_S)
    yield {"type": "TOOL_CALL_ARGS", "toolCallId": call_id, "delta": f'"thing{done}"}}'}
    yield {"type": "TOOL_CALL_END", "toolCallId": call_id}
    yield {"type": "RUN_FINISHED", "finishReason": "tool_calls"}
