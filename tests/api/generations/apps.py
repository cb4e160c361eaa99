"""The application with scripted generations, as a process of its own, and what its clients send."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests import waits
from tests.servers import App, Process

WAIT_MAX_S = 30.0
"""A wait in these tests that lasts longer has failed."""

WAV = "data:audio/wav;base64,UklGRiYAAABXQVZFZm10IBAAAAABAAEAQB8AAIA+AAACABAAZGF0YQIAAAAAAA=="

INPUTS: dict[str, dict[str, Any]] = {
    "image": {"prompt": "a cat"},
    "speech": {"text": "a cat"},
    "transcription": {"audio": WAV, "prompt": "a cat"},
    "summary": {"text": "a cat"},
    "video": {"prompt": "a cat"},
}

JSON = {"Accept": "application/json"}


class Generating(App):
    """The application, and requests to it."""

    def __init__(self, folder: Path, **settings: str) -> None:
        source = "tests.interop.scripted_generations:app"
        command = (sys.executable, "-m", "uvicorn", source, "--port", "{port}", "--no-access-log")
        super().__init__(command, folder, {"DURABLE_CHAT_STORE": "sqlite:///chat.db", **settings})

    def post(self, activity: str, body: Any, **more: Any) -> httpx.Response:
        return httpx.post(f"{self.url}/api/generate/{activity}", json=body, timeout=WAIT_MAX_S, **more)

    def get(self, path: str = "", **query: str) -> httpx.Response:
        return httpx.get(f"{self.url}/api/generate{path}", params=query, timeout=WAIT_MAX_S)

    def state(self, slot: str) -> dict[str, Any]:
        """What a page that mounts is given."""
        answer = self.get(threadId=slot)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def status(self, slot: str) -> str | None:
        return (self.state(slot)["resumeSnapshot"] or {}).get("status")

    def log_of(self, slot: str) -> list[dict[str, Any]]:
        answer = httpx.get(
            f"{self.url}/api/chat-stream",
            params={"id": f"generation-{slot}", "offset": "-1", "live": "long-poll"},
            timeout=WAIT_MAX_S,
        )
        found: list[dict[str, Any]] = answer.json()
        return found

    def jobs(self) -> dict[str, str]:
        """The provider's books."""
        path = self.folder / "jobs.json"
        found: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}
        return found

    def go(self) -> None:
        httpx.post(f"{self.url}/go", timeout=WAIT_MAX_S).raise_for_status()


def wait_until(holds: Callable[[], bool], what: str) -> None:
    waits.wait_until(holds, what, WAIT_MAX_S)


def chunks_in(text: str) -> list[dict[str, Any]]:
    """The chunks of a response in server-sent events."""
    return [json.loads(line.removeprefix("data: ")) for line in text.splitlines() if line.startswith("data: ")]


def started(app: Generating, processes: list[Process]) -> Generating:
    """Start an application, which is stopped with `processes`."""
    processes.append(app)
    app.start()
    return app


@pytest.fixture
def any_app(tmp_path: Path, processes: list[Process], any_store_url: str) -> Generating:
    """The application on each kind of store: in memory, in a file, and on a remote server."""
    return started(Generating(tmp_path / "app", DURABLE_CHAT_STORE=any_store_url), processes)


@pytest.fixture
def app(tmp_path: Path, processes: list[Process]) -> Generating:
    return started(Generating(tmp_path), processes)
