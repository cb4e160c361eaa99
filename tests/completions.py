"""A small server that speaks OpenAI's Chat Completions, for what uses OpenAI's client."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

CALL = {"index": 0, "id": "call-1", "type": "function", "function": {"name": "weather", "arguments": ""}}


def deltas(asked: dict[str, Any]) -> list[dict[str, Any]]:
    """
    A call of the tool `weather` where there are tools and no result yet, its arguments in two pieces; else the result, or
    how many messages were sent, word by word. The last delta has no content, as with OpenAI.
    """
    last = asked["messages"][-1]
    if "tools" in asked and last["role"] != "tool":
        pieces = [{"index": 0, "function": {"arguments": piece}} for piece in ('{"city":', '"Rome"}')]
        return [{"tool_calls": [call]} for call in (CALL, *pieces)]
    text = last["content"] if last["role"] == "tool" else f"{len(asked['messages'])} from {asked['model']}"
    return [*({"content": f"{' ' if at else ''}{word}"} for at, word in enumerate(text.split(" "))), {"content": None}]


class Completions(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        for delta in deltas(asked):
            chunk = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m"}
            chunk["choices"] = [{"index": 0, "delta": delta}]
            self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())
        self.wfile.write(b"data: [DONE]\n\n")

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is the library's
        """A test's output is for what it says itself."""


@contextlib.contextmanager
def completions_served() -> Iterator[str]:
    """Serves it; the address is what OPENAI_BASE_URL takes."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Completions) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()
        thread.join()
