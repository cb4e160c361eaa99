"""
The server of dying.py with a model that hears one message: it says "First.", and answers the message with "Second.".

Start it with uvicorn as `steered_dying:app`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import tests.sessions.dying  # noqa: F401 - it replaces the store
from durable_chat.app import DurableChat
from durable_chat.models.base import Turn

chat = DurableChat("sqlite:///chat.db", protocol=True)


@chat.model
async def answer(turn: Turn) -> AsyncIterator[str]:
    if turn.text != "one":
        yield "Alone."
        return
    yield "First."
    while (heard := await turn.heard()) is None:  # noqa: ASYNC110 - a model asks, nothing tells it
        await asyncio.sleep(0.01)
    yield f"Second: {heard.text}."


app = chat.app
