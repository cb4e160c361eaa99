"""
Live responses that end with their connection, for `serve`: a killed server then looks like one that has finished.

A chunked response that is cut is an error to `fetch`, and stock clients give up their subscription at it; they come back
after a clean end only. A response of HTTP/1.1 without a length and without chunks lasts until its connection ends
(RFC 9112 section 6.3), and the kernel of a killed process ends its connections in order. One that is reset on the way is
an error all the same, but to Node.js.

What it costs: each live response has a connection of its own. And where the reader was so far behind that its socket took
no more, a kill may end the response between data and their control event: stock clients then show these data twice,
until the next snapshot.
"""

from __future__ import annotations

from typing import Any, Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

LIVE: Final = (b"content-type", b"text/event-stream")


class EndingProtocol(HttpToolsProtocol):
    """Uvicorn's protocol, but for the answers to live reads. Other requests take the way they always took."""

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        live = cycle.scope["method"] == "GET" and b"live=sse" in cycle.scope["query_string"]
        chosen: Any = ending(app, cycle) if live else app
        super()._start_asgi_task(cycle, chosen)


def ending(app: ASGIApp, cycle: RequestResponseCycle) -> ASGIApp:
    """The app, whose event stream `cycle` does not chunk; it closes the connection after it."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        live = False

        async def send_plain(message: Message) -> None:
            nonlocal live
            if message["type"] == "http.response.start":
                live = LIVE in message["headers"]
                if live:
                    cycle.chunked_encoding = cycle.keep_alive = False
            elif live:
                # What comes is what was expected: no length was promised.
                cycle.expected_content_length = len(message.get("body", b""))
            await send(message)

        await app(scope, receive, send_plain)

    return answer
