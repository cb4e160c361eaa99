"""One server process, killed and started again on the same file and port, its gates, and what is asked of it."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.servers import ROOT, Process
from tests.sessions.machine.gates import Gates
from tests.transcripts.logs import Chunks

WAIT_MAX_S = 20.0
"""A fact that does not come within that time does not come."""
QUEUE_MAX = 3
SETTINGS = {
    "DURABLE_CHAT_QUEUE_MAX": str(QUEUE_MAX),
    "DURABLE_CHAT_GRACE_S": "0.3",
    # A killed answer ends as interrupted here. How one goes on after a crash has tests of its own.
    "DURABLE_CHAT_RESUMES_MAX": "0",
    # Reached by some sessions: their turns begin with snapshots first, and with echoes later.
    "DURABLE_CHAT_TURN_SNAPSHOT_MAX_BYTES": "1500",
}
COMMAND = (
    *(sys.executable, "-m", "uvicorn", "tests.sessions.machine.steered:app"),
    *("--port", "{port}", "--log-level", "warning"),
)


class World:
    """Mutable state: the process's lives; `client`, of the one that lives; the number of sessions so far."""

    def __init__(self, folder: Path) -> None:
        self.changed = threading.Condition()
        self.gates = Gates(self.changed)
        self.process = Process(COMMAND, folder, {**SETTINGS, "GATES": str(self.gates.port), "PYTHONPATH": str(ROOT)})
        self.process.ready_path = "/readyz"
        self.sessions = 0
        self.start()

    def start(self) -> None:
        self.process.start()
        self.client = httpx.Client(base_url=self.process.url, timeout=WAIT_MAX_S)

    def kill(self) -> None:
        self.process.kill()
        self._gone()

    def terminate(self) -> None:
        code = self.process.terminate()
        assert code in (0, -15), self.process.output_shown()
        self._gone()

    def _gone(self) -> None:
        self.client.close()
        self.gates.forget()

    def close(self) -> None:
        self.process.kill()
        self.client.close()
        self.gates.close()

    def new_session(self) -> str:
        self.sessions += 1
        return f"m{self.sessions}"

    def wait_for(self, holds: Callable[[], bool], what: str) -> None:
        """Until a fact holds; it is looked at whenever something has changed."""
        deadline_s = time.monotonic() + WAIT_MAX_S
        with self.changed:
            while not holds():
                left_s = deadline_s - time.monotonic()
                assert left_s > 0, f"not seen: {what}\n{self.process.output_shown()}"
                self.changed.wait(min(left_s, 1.0))

    # What is asked of the server.

    def post(
        self, session_id: str, messages: list[dict[str, Any]], key: str | None = None, turns: str | None = None
    ) -> httpx.Response:
        headers = {} if key is None else {"Idempotency-Key": key}
        query = {"id": session_id} | ({} if turns is None else {"turns": turns})
        return self.client.post("/api/chat", params=query, json={"messages": messages}, headers=headers)

    def take_back(self, session_id: str, message_id: str) -> list[str]:
        answer = self.client.delete("/api/chat-turns", params={"id": session_id, "messageId": message_id})
        assert answer.status_code == 200, answer.text
        taken: list[str] = answer.json()["takenBack"]
        return taken

    def send_now(self, session_id: str, message_id: str, turns: str) -> str:
        query = {"id": session_id, "messageId": message_id, "turns": turns}
        answer = self.client.post("/api/chat-turns", params=query)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["runId"])

    def stop(self, session_id: str, run_id: str | None = None) -> list[str]:
        query = {"id": session_id} | ({} if run_id is None else {"runId": run_id})
        answer = self.client.post("/api/chat-stop", params=query)
        assert answer.status_code == 200, answer.text
        stopped: list[str] = answer.json()["stopped"]
        return stopped

    def snapshot(self, session_id: str) -> dict[str, Any]:
        answer = self.client.get("/api/chat-snapshot", params={"id": session_id})
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def compacted(self, session_id: str) -> tuple[list[dict[str, Any]], str]:
        """The catch-up read of a tab: the messages, and where to go on."""
        answer = self.client.get("/api/chat-stream", params={"id": session_id})
        assert answer.status_code == 200, answer.text
        chunks = answer.json()
        return (chunks[0]["messages"] if chunks else []), answer.headers["stream-next-offset"]

    def log(self, session_id: str, offset: str = "-1") -> Chunks:
        """The raw log, as the protocol's own route gives it."""
        found: Chunks = []
        while True:
            answer = self.client.get(f"/v1/stream/chat-{session_id}", params={"offset": offset})
            if answer.status_code == 404:
                return found
            assert answer.status_code == 200, answer.text
            found += answer.json()
            offset = answer.headers["stream-next-offset"]
            if "stream-up-to-date" in answer.headers:
                return found


@contextmanager
def living(folder: Path) -> Iterator[World]:
    world = World(folder)
    try:
        yield world
    finally:
        world.close()
