"""
A small server that speaks OpenAI's Responses API with background answers: they go on without a client, are retrieved
with `starting_after`, and can be cancelled.

The test decides how far an answer has come: events wait until they are released.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

WAIT_MAX_S = 30.0
"""How long a connection stays open without an event. A test that takes longer has failed."""

Event = dict[str, Any]
Item = tuple[str, Sequence[str]]
"""A part of an answer: `text`, `reasoning`, or the name of a tool; and its text or arguments, in pieces."""


def events_of(response_id: str, items: Sequence[Item]) -> list[Event]:
    """Return all events of a response, numbered from 0."""
    output: list[Any] = []
    events: list[Event] = []

    def response(status: str) -> Event:
        usage = {"input_tokens": 7, "output_tokens": 5, "total_tokens": 12} if status == "completed" else None
        shown = {"id": response_id, "object": "response", "model": "m", "status": status}
        return {**shown, "output": list(output), "usage": usage}

    def add(kind: str, **fields: Any) -> None:
        events.append({"type": f"response.{kind}", **fields, "sequence_number": len(events)})

    add("created", response=response("queued"))
    add("queued", response=response("queued"))
    add("in_progress", response=response("in_progress"))
    for index, (kind, pieces) in enumerate(items):
        item, delta = _item(f"{response_id}-{index}", kind, "".join(pieces))
        at = {"output_index": index, "item_id": item["id"], "content_index": 0, "summary_index": 0}
        add("output_item.added", output_index=index, item=_item(f"{response_id}-{index}", kind, "")[0])
        for piece in pieces:
            add(f"{delta}.delta", **at, delta=piece)
        add(f"{delta}.done", **at, text="".join(pieces), arguments="".join(pieces))
        add("output_item.done", output_index=index, item=item)
        output.append(item)
    add("completed", response=response("completed"))
    return events


def _item(item_id: str, kind: str, whole: str) -> tuple[Event, str]:
    if kind == "text":
        content = [{"type": "output_text", "text": whole, "annotations": []}]
        return {"type": "message", "id": item_id, "role": "assistant", "content": content}, "output_text"
    if kind == "reasoning":
        summary = [{"type": "summary_text", "text": whole}]
        return {"type": "reasoning", "id": item_id, "summary": summary}, "reasoning_summary_text"
    call = {"type": "function_call", "id": item_id, "call_id": f"call-{item_id}", "name": kind, "arguments": whole}
    return call, "function_call_arguments"


@dataclass
class Answering:
    """One response at the provider. Mutable: how many of its events have happened, and whether it was cancelled."""

    events: list[Event]
    happened: int = 0
    cancelled: bool = False


@dataclass
class Provider:
    """
    The responses, made from `scripts`, one after the other. Mutable: what it was asked for, and how many events the
    next connections may carry before they are cut.
    """

    scripts: list[Sequence[Item]]
    released: int = 1_000_000
    """How many events of a response happen by themselves."""

    cuts: list[int] = field(default_factory=list)
    responses: dict[str, Answering] = field(default_factory=dict)
    created: list[Any] = field(default_factory=list)
    retrieved: list[int] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    expired: set[str] = field(default_factory=set)
    """The responses that nobody can retrieve any more."""

    changed: threading.Condition = field(default_factory=threading.Condition)

    def create(self, body: Any) -> str:
        with self.changed:
            response_id = f"resp_{len(self.created)}"
            self.created.append(body)
            script = self.scripts[min(len(self.created), len(self.scripts)) - 1]
            self.responses[response_id] = Answering(events_of(response_id, script))
            return response_id

    def release(self, events: int = 1_000_000) -> None:
        """Let a response come so far, also one that nobody reads."""
        with self.changed:
            self.released = events
            self.changed.notify_all()

    def expire(self) -> None:
        """Forget all responses so far, as the provider does after some minutes."""
        self.expired |= self.responses.keys()

    def cancel(self, response_id: str) -> None:
        with self.changed:
            self.cancelled.append(response_id)
            self.responses[response_id].cancelled = True
            self.changed.notify_all()

    def next_event(self, response_id: str, at: int) -> Event | None:
        """Wait for an event. Return None when there is none."""
        answering = self.responses[response_id]
        with self.changed:
            self.changed.wait_for(lambda: answering.cancelled or at < self.released, WAIT_MAX_S)
            ended = answering.cancelled or at >= min(self.released, len(answering.events))
            return None if ended else answering.events[at]

    def wait_for_cancel(self) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: self.cancelled, WAIT_MAX_S), "nothing was cancelled"


def _handler(provider: Provider) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            path = urlsplit(self.path).path
            if path.endswith("/cancel"):
                response_id = path.split("/")[-2]
                provider.cancel(response_id)
                self._json({"id": response_id, "object": "response", "status": "cancelled", "output": []})
            else:
                self._stream(provider.create(json.loads(body)), 0)

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            response_id = parts.path.split("/")[-1]
            after = int(parse_qs(parts.query).get("starting_after", ["-1"])[0])
            provider.retrieved.append(after)
            if response_id in provider.responses.keys() - provider.expired:
                self._stream(response_id, after + 1)
            else:
                self._json({"error": {"message": "not found", "type": "invalid_request_error", "code": None}}, 404)

        def _stream(self, response_id: str, at: int) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.end_headers()
            left = provider.cuts.pop(0) if provider.cuts else -1
            with contextlib.suppress(OSError):  # the client has left
                while left and (event := provider.next_event(response_id, at)) is not None:
                    self.wfile.write(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode())
                    at, left = at + 1, left - 1

        def _json(self, value: Any, status: int = 200) -> None:
            data = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is the library's
            """A test's output is for what it says itself."""

    return Handler


@contextlib.contextmanager
def responses_served(provider: Provider) -> Iterator[str]:
    """Serve the provider. The address is what OPENAI_BASE_URL takes."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _handler(provider)) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1"
        finally:
            provider.release()
            server.shutdown()
            thread.join()
