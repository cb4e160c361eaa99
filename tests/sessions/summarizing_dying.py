"""
The server of dying.py with a model whose context is limited: the fourth long message exceeds the limit.

Start it with uvicorn as `summarizing_dying:app`. Each call of the model adds a line to asked.txt: `summary`, or `answer`
with or without the summary. With DIE_IN=summary the process dies while the model summarizes.
"""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import tests.sessions.dying  # noqa: F401 - it replaces the store
from durable_chat import ContextLimit, DurableChat, Turn
from durable_chat.models.base import GO_ON

ASKED = Path("asked.txt")
SUMMARY = "They talked."
LIMIT_TOKENS = 600


def note(line: str) -> None:
    with ASKED.open("a") as file:
        file.write(f"{line}\n")


async def talk(turn: Turn) -> AsyncIterator[str]:
    await turn.saved()  # what was yielded before is durable, so that a process that dies at it dies here
    if turn.data.get("purpose") == "context-summary":
        note("summary")
        if os.environ.get("DIE_IN") == "summary":
            os.kill(os.getpid(), signal.SIGKILL)
        yield SUMMARY
        return
    given = any(part.get("content") == SUMMARY for message in turn.messages for part in message["parts"])
    note(f"answer {'with' if given else 'without'} the summary")
    if str(turn.messages[-1]["id"]).startswith(GO_ON):
        yield " Done."
        return
    yield f"Answer {turn.text.partition(':')[0]}."
    await turn.saved()  # a process that dies at these words has not written the end


app = DurableChat("sqlite:///chat.db", protocol=True, model=ContextLimit(talk, LIMIT_TOKENS)).app
