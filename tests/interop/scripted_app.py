"""
A chat whose model follows a script that a test has posted for the session: chunks, gates to wait at, errors to raise.

A gate is shown to every tab as a CUSTOM chunk before the model waits, so that all tabs can be compared at that point.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import AsyncIterator
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route

from durable_chat import DurableChat
from durable_chat.models.base import Turn

GATE = "test.gate"

chat = DurableChat(protocol=True, page=True)
answers: dict[str, deque[list[Any]]] = {}
gates: defaultdict[tuple[str, str], asyncio.Event] = defaultdict(asyncio.Event)


@chat.model
async def play(turn: Turn) -> AsyncIterator[Any]:
    """Yield the session's next answer."""
    for step in answers[turn.session_id].popleft():
        if isinstance(step, dict) and "gate" in step:
            yield {"type": "CUSTOM", "name": GATE, "value": step["gate"]}
            await gates[turn.session_id, step["gate"]].wait()
        elif isinstance(step, dict) and "hear" in step:
            turn = await turn.heard() or turn
        elif isinstance(step, dict) and "raise" in step:
            raise RuntimeError(step["raise"])
        else:
            yield step


async def write(request: Request) -> Response:
    """POST /script?id=S: set the model's output in the session, answer by answer."""
    answers[request.query_params["id"]] = deque(await request.json())
    return Response(status_code=204)


async def open_gate(request: Request) -> Response:
    """POST /open?id=S&gate=G: let the model continue."""
    gates[request.query_params["id"], request.query_params["gate"]].set()
    return Response(status_code=204)


app = Starlette(
    routes=[
        Route("/script", write, methods=["POST"]),
        Route("/open", open_gate, methods=["POST"]),
        Mount("/", chat.app),
    ],
    lifespan=chat.lifespan,
)
