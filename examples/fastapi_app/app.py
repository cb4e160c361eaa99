"""A durable chat inside a FastAPI application: a model of your own, and a route that reads a chat."""

import asyncio
from collections.abc import AsyncIterator

from fastapi import FastAPI

from durable_chat import DurableChat, Turn, materialize_snapshot_from_durable_stream

chat = DurableChat("sqlite:///chat.db")


@chat.model
async def answer(turn: Turn) -> AsyncIterator[str]:
    """Put your model here. Each piece is stored as soon as it is yielded, and every open tab shows it."""
    for word in f"You wrote: {turn.text}".split(" "):
        yield word + " "
        await asyncio.sleep(0.05)


app = FastAPI(lifespan=chat.lifespan)


@app.get("/transcripts/{session_id}")
async def transcript(session_id: str) -> list[str]:
    """Read a chat from your own code. Declare routes before the mount, which takes every path that is left."""
    snapshot = await materialize_snapshot_from_durable_stream(stream=chat.session(session_id))
    return [f"{message['role']}: {message['parts'][0]['content'].strip()}" for message in snapshot.messages]


app.mount("/", chat.app)
