"""Tabs that follow a session live, may be cut off at any moment, and come back by their offset."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from contextlib import suppress
from typing import Any

from tests.transcripts.logs import Chunks

READ_MAX_S = 70.0
"""Longer than a live read of the server lasts."""
RETRY_S = 0.02


class Reader:
    """
    A tab. It begins at `start` (None: wherever the server says `now` is), with the messages it was hydrated with, if it
    was. Mutable state, guarded by `changed`: `seen`, what it was shown up to `offset`; `torn`, what came after that; what
    was torn before, with where; whether it is `away`, or `closed`.
    """

    def __init__(
        self,
        port: int,
        changed: threading.Condition,
        session_id: str,
        start: str,
        messages: list[dict[str, Any]] | None = None,
    ) -> None:
        self.session_id = session_id
        self.start: str | None = None if start == "now" else start
        self.messages = messages
        self.seen: Chunks = []
        self.torn: Chunks = []
        self.was_torn: list[tuple[int, Chunks]] = []
        self.offset = start
        self.away = self.closed = False
        self._port = port
        self._changed = changed
        self._socket: socket.socket | None = None
        self._thread = threading.Thread(target=self._follow, name=f"reader of {session_id}", daemon=True)
        self._thread.start()

    @property
    def folds(self) -> bool:
        """Whether it has the whole transcript, and not only what came since."""
        return self.start == "-1" or self.messages is not None

    @property
    def hydrated(self) -> Chunks:
        """What it began with, as a chunk."""
        return [{"type": "MESSAGES_SNAPSHOT", "messages": self.messages}] if self.messages else []

    def cut(self) -> None:
        """Cut it off; it stays away until it comes back."""
        with self._changed:
            self.away = True
            self._hang_up()

    def come_back(self) -> None:
        with self._changed:
            self.away = False
            self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self.closed = True
            self._hang_up()
            self._changed.notify_all()
        self._thread.join()

    def _hang_up(self) -> None:
        if self._socket is not None:
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)

    def _follow(self) -> None:
        while not self.closed:
            with self._changed:
                if self.away:
                    self._changed.wait()
                    continue
            with suppress(OSError, http.client.HTTPException):
                self._read_live()
            with self._changed:
                if self.torn:
                    self.was_torn.append((len(self.seen), self.torn))
                    self.torn = []
                self._changed.wait(RETRY_S)

    def _read_live(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=READ_MAX_S)
        try:
            connection.connect()
            with self._changed:
                self._socket = connection.sock
                if self.away or self.closed:
                    return
            connection.request("GET", f"/api/chat-stream?id={self.session_id}&offset={self.offset}&live=sse")
            answer = connection.getresponse()
            if answer.status == 200:
                self._take_all(answer)
        finally:
            with self._changed:
                self._socket = None
            connection.close()

    def _take_all(self, answer: http.client.HTTPResponse) -> None:
        name = ""
        while (line := answer.readline()).endswith(b"\n"):
            if line.startswith(b"event:"):
                name = line[6:].strip().decode()
            elif line.startswith(b"data:"):
                self._take(name, json.loads(line[5:]))

    def _take(self, name: str, data: Any) -> None:
        with self._changed:
            if name == "data":
                self.torn = data
                return
            self.seen += self.torn
            self.torn = []
            self.offset = data["streamNextOffset"]
            if self.start is None:
                self.start = self.offset
            self._changed.notify_all()
