"""Answers with tools that go on after their process died."""

from __future__ import annotations

import http.client
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.servers import ROOT, Process
from tests.sessions.test_recovery import check_readers, say, until
from tests.transcripts.logs import Chunks, check_runs, fold, kinds


class Stepping:
    """Several lives of the application in stepping.py on one file. Mutable state: the process of the last life."""

    def __init__(self, folder: Path, processes: list[Process]) -> None:
        self.folder = folder
        self.processes = processes

    def start(self, *, wait: bool = True, **settings: str) -> Process:
        command = (sys.executable, "-m", "uvicorn", "tests.sessions.stepping:chat.app", "--port", "{port}")
        process = Process([*command, "--log-level", "warning"], self.folder, {"PYTHONPATH": str(ROOT), **settings})
        process.ready_path = "/readyz"
        self.processes.append(process)
        process.start(wait=wait)
        return process

    @property
    def calls(self) -> list[str]:
        file = self.folder / "calls.txt"
        return file.read_text().splitlines() if file.exists() else []


@pytest.fixture
def stepping(tmp_path: Path, processes: list[Process]) -> Stepping:
    return Stepping(tmp_path / "stepping", processes)


def die(stepping: Stepping, text: str, **settings: str) -> None:
    """Send a turn to a process that dies during it."""
    process = stepping.start(**settings)
    with pytest.raises((OSError, http.client.HTTPException)):
        assert say(process, "s", text, query="&mode=await") == 0
    assert process.wait() == -9


def ends(chunks: Chunks) -> bool:
    return bool({"RUN_FINISHED", "RUN_ERROR"} & set(kinds(chunks)))


def resumed(chunks: Chunks) -> list[dict[str, Any]]:
    return [chunk["value"] for chunk in chunks if chunk.get("name") == "durable-chat.run-resumed"]


def finish(stepping: Stepping, **settings: str) -> tuple[Process, Chunks]:
    process = stepping.start(**settings)
    chunks = until(process, "s", ends)
    check_readers(process, "s", chunks)
    return process, chunks


def text_of(chunks: Chunks) -> str:
    parts = (part for message in fold(chunks) if message["role"] == "assistant" for part in message["parts"])
    return "".join(part["content"] for part in parts if part["type"] == "text")


WHOLE = "Step 0. Step 1. Step 2. word0 word1 word2 "


def test_an_answer_goes_on_after_its_last_step(stepping: Stepping) -> None:
    """After a kill between two steps, finished calls are not executed again and the run has one end."""
    die(stepping, "look order", DIE_AT="saw thing0")
    _, chunks = finish(stepping)
    (end,) = check_runs(chunks)
    assert end["type"] == "RUN_FINISHED"
    assert Counter(call.split()[0] for call in stepping.calls) == {"look": 1, "order": 1}
    assert text_of(chunks) == WHOLE
    assert resumed(chunks) == [{"runId": end["runId"], "attempt": 1, "how": "resume"}]
