"""Starts an example as its README says, in a copy of its folder."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import httpx

from tests.servers import INTEROP, ROOT, Process, node_env

EXAMPLES = ROOT / "examples"
LEFT_BEHIND = ("node_modules", "dist", "__pycache__", "*.db*")
"""What a person's own use leaves in the folder of an example."""


def names() -> list[str]:
    return sorted(path.name for path in EXAMPLES.iterdir() if (path / "README.md").exists())


def command_of(name: str) -> str:
    """The one command in the example's README."""
    (command,) = re.findall(r"```sh\n(.*)\n```", (EXAMPLES / name / "README.md").read_text())
    assert isinstance(command, str)
    return command


class Example(Process):
    """The example as a process; its packages are those of the tests, so what the command installs is left out."""

    ready_path = "/readyz"

    def __init__(self, name: str, folder: Path, environment: dict[str, str]) -> None:
        shutil.copytree(EXAMPLES / name, folder, ignore=shutil.ignore_patterns(*LEFT_BEHIND))
        programs = [str(Path(sys.executable).parent)]
        start = shlex.split(command_of(name).rpartition(" && ")[2])
        if start[0] == "npm":
            programs.append(str(Path(node_env()).parent))
            (folder / "node_modules").symlink_to(INTEROP / "node_modules")
            start.append("--")
        path = os.pathsep.join([*programs, os.environ["PATH"]])
        super().__init__((*start, "--port", "{port}"), folder, {"PATH": path, **environment})

    def post(self, text: str) -> list[dict[str, Any]]:
        """Sends a message and waits for the answer; the messages of the chat."""
        message = {"id": text, "role": "user", "parts": [{"type": "text", "content": text}]}
        query = {"id": "demo", "mode": "await"}
        answer = httpx.post(f"{self.url}/api/chat", params=query, json={"messages": [message]}, timeout=30)
        assert answer.status_code == 200, answer.text
        return self.messages()

    def messages(self) -> list[dict[str, Any]]:
        messages: list[dict[str, Any]] = self.snapshot()["messages"]
        return messages

    def snapshot(self) -> Any:
        return self.get("/api/chat-snapshot?id=demo").json()

    def get(self, path: str) -> httpx.Response:
        return httpx.get(f"{self.url}{path}", timeout=30).raise_for_status()

    def deltas(self) -> list[str]:
        """The pieces of text in the log of the chat, as tabs receive them."""
        chunks = self.get("/api/chat-stream?id=demo&offset=-1&live=long-poll").json()
        return [chunk["delta"] for chunk in chunks if chunk["type"] == "TEXT_MESSAGE_CONTENT"]
