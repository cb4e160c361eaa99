"""The commands that call a running server over HTTP (`tail`, `snapshot`, `stop`), and all exit codes."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from durable_chat.errors import NotFound
from durable_chat.protocol.events import EventDecoder

if TYPE_CHECKING:
    import httpx

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_CANNOT_START = 3
EXIT_NO_SERVER = 4
EXIT_INTERRUPTED = 130

CONNECT_TIMEOUT_S = 10.0
# Longer than the 15 s between pings of a live response.
READ_TIMEOUT_S = 120.0
# How many times `tail` retries if the server does not respond. Each pause is longer, because a restart takes seconds.
RETRIES_MAX = 6
RETRY_STEP_S = 0.5

Check = Callable[["httpx.Response", str], None]
"""Checks the response to a request about a session. Raises DurableChatError if something is wrong."""


def fail(message: str, code: int) -> int:
    print(f"durable-chat: {message}", file=sys.stderr)
    return code


def snapshot(options: argparse.Namespace) -> int:
    return _ask(options, "GET", "/api/chat-snapshot", {"id": options.id}, refuse_nothing)


def refuse_nothing(answer: httpx.Response, session_id: str) -> None:
    """
    Raise NotFound for a session without messages. The server returns an empty session for an unknown id, but on the
    command line that is probably a typing error.
    """
    body = answer.json()
    if not body["messages"] and body.get("activeRun") is None:
        raise NotFound(f"There is no session {session_id!r}, or it has no messages. Check the id.")


def stop(options: argparse.Namespace) -> int:
    return _ask(options, "POST", "/api/chat-stop", {"id": options.id} | ({"runId": options.run} if options.run else {}))


def _ask(
    options: argparse.Namespace,
    method: str,
    path: str,
    query: dict[str, str],
    check: Check | None = None,
) -> int:
    """Send one request and print the response."""
    import httpx

    try:
        with make_client(options) as client:
            answer = client.request(method, path, params=query)
    except httpx.TransportError:
        return no_server(options)
    if not answer.is_success:
        return refused(answer)
    if check is not None:
        check(answer, options.id)
    print(answer.text)
    return EXIT_OK


def make_client(options: argparse.Namespace) -> httpx.Client:
    import httpx

    headers = {"Authorization": f"Bearer {options.token}"} if options.token else {}
    timeout = httpx.Timeout(READ_TIMEOUT_S, connect=CONNECT_TIMEOUT_S)
    return httpx.Client(base_url=options.url, headers=headers, timeout=timeout)


def no_server(options: argparse.Namespace) -> int:
    return fail(f"no server responds at {options.url}", EXIT_NO_SERVER)


def refused(answer: httpx.Response) -> int:
    """Print the message of an error response."""
    try:
        message = str(answer.json()["error"])
    except (ValueError, KeyError, TypeError):
        message = "the server's response is not valid; is it a durable-chat server?"
    return fail(f"{message} (status {answer.status_code})", EXIT_FAILED)


def tail(options: argparse.Namespace) -> int:
    """Follow a session by offset, over the end of live responses and restarts of the server."""
    import httpx

    follower = Follower(options.id, options.offset)
    failures = 0
    with make_client(options) as client:
        while failures <= RETRIES_MAX:
            time.sleep(failures * RETRY_STEP_S)
            before = follower.offset
            try:
                code = follower.follow(client)
            except httpx.TransportError:
                code = EXIT_NO_SERVER
            if code not in (None, EXIT_NO_SERVER):
                return code
            if not follower.reached:
                break
            failures = failures + 1 if code and follower.offset == before else 0
    return no_server(options)


class Follower:
    """Mutable state: `offset`, after the last printed chunk; `reached`, true once a server has responded."""

    def __init__(self, session: str, offset: str) -> None:
        self.session = session
        self.offset = offset
        self.reached = False

    def follow(self, client: httpx.Client) -> int | None:
        """Print one live response. Return an exit code, or None if more may come."""
        query = {"id": self.session, "offset": self.offset, "live": "sse"}
        with client.stream("GET", "/api/chat-stream", params=query) as answer:
            self.reached = True
            if answer.status_code == 503:
                return EXIT_NO_SERVER
            if not answer.is_success:
                answer.read()
                return refused(answer)
            decoder = EventDecoder()
            for event in (event for piece in answer.iter_bytes() for event in decoder.feed(piece)):
                if event.name == "data":
                    print_chunks(event.data)
                elif event.name == "control" and self._advance(json.loads(event.data)):
                    return EXIT_OK
        return None

    def _advance(self, control: dict[str, Any]) -> bool:
        """Take the offset of a control event. Return whether the stream is closed."""
        self.offset = control["streamNextOffset"]
        return bool(control.get("streamClosed"))


def print_chunks(data: bytes) -> None:
    for chunk in json.loads(data):
        print(json.dumps(chunk, ensure_ascii=False, separators=(",", ":")))
    sys.stdout.flush()
