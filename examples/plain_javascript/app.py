"""A chat page in plain JavaScript, and the chat server that it talks to."""

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse
from starlette.routing import Mount, Route

from durable_chat import DurableChat

# The demo model answers, or Anthropic's if ANTHROPIC_API_KEY is set.
chat = DurableChat("sqlite:///chat.db", page=False)


async def index(_request: Request) -> FileResponse:
    return FileResponse("index.html")


app = Starlette(lifespan=chat.lifespan, routes=[Route("/", index), Mount("/", chat.app)])
