"""The chat server, and the page that Vite has built in the folder `dist`."""

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from durable_chat import DurableChat

# The demo model answers, or Anthropic's if ANTHROPIC_API_KEY is set.
chat = DurableChat("sqlite:///chat.db", page=False)


async def index(_request: Request) -> FileResponse:
    return FileResponse("dist/index.html")


routes = [Route("/", index), Mount("/assets", StaticFiles(directory="dist/assets")), Mount("/", chat.app)]
app = Starlette(lifespan=chat.lifespan, routes=routes)
