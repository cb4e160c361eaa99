"""
An application whose answers go on when the test says so, in processes that may be killed.

Start it with uvicorn as `gated:chat.app`. An answer says "About WORDS: ", waits until the file go-WORDS exists, and says
"done.". Each time a model is asked, a line in asked.txt has the texts of the user's messages, and `data`. A message
"step step" is answered with that many calls of the tool `wait` first; the call number N waits for the file go-stepN, after
a line in calls.txt. The usage of each step is its number. `repeat` makes the model begin with its last words again when it is asked to go on. DIE_AT and DIE
are as in dying.py.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from durable_chat import DurableChat, Turn
from tests.sessions import dying  # noqa: F401 - it replaces the store by one that dies

chat = DurableChat("sqlite:///gated.db", protocol=True)


def note(file: str, line: str) -> None:
    with Path(file).open("a") as opened:
        opened.write(f"{line}\n")


async def gate(name: str) -> None:
    while not Path(f"go-{name}").exists():  # noqa: ASYNC110 - a file, which the test makes
        await asyncio.sleep(0.01)


@chat.tool
async def wait(name: str) -> str:
    """Wait for the test."""
    note("calls.txt", name)
    await gate(name)
    return f"waited for {name}"


@chat.tool(needs_approval=True)
def pay(item: str) -> str:
    """Pay for something."""
    note("calls.txt", f"pay {item}")
    return f"paid {item}"


def text_of(message: Any) -> str:
    return "".join(part["content"] for part in message["parts"] if part["type"] == "text")


@chat.model
async def answer(turn: Turn) -> AsyncIterator[Any]:
    goes_on = turn.messages[-1]["id"].startswith("go-on")
    messages = turn.messages[:-1] if goes_on else turn.messages
    users = [message for message in messages if message["role"] == "user"]
    note("asked.txt", json.dumps([[text_of(message) for message in users], dict(turn.data)]))
    words, after = text_of(users[-1]), messages[messages.index(users[-1]) + 1 :]
    done = sum(part["type"] == "tool-result" for message in after for part in message["parts"])
    tool = "pay" if "pay" in words.split() else "wait"
    if done < len([word for word in words.split() if word in ("step", "pay")]):
        call_id = f"call-{turn.run_id}-{done}"
        yield {"type": "TOOL_CALL_START", "toolCallId": call_id, "toolCallName": tool}
        given = {"item": "it"} if tool == "pay" else {"name": f"step{done}"}
        yield {"type": "TOOL_CALL_ARGS", "toolCallId": call_id, "delta": json.dumps(given)}
        yield {"type": "TOOL_CALL_END", "toolCallId": call_id}
        yield {"type": "RUN_FINISHED", "finishReason": "tool_calls", "usage": {"outputTokens": done}}
        return
    said = "".join(text_of(message) for message in after if message["role"] == "assistant")
    if not goes_on or not said:
        yield f"About {words}: "
    elif "repeat" in words:
        yield said[-12:]
    await gate(words.replace(" ", "-"))
    yield "done."
    yield {"type": "RUN_FINISHED", "finishReason": "stop", "usage": {"outputTokens": done}}
