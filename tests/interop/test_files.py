"""
Messages with files and the real TanStack client: every tab and the model get the complete files, and the log stays
small.
"""

from __future__ import annotations

import base64
import hashlib
import json
import random
from pathlib import Path
from typing import Any

import pytest

from tests.interop.playing import CLIENTS, Facts, play
from tests.servers import Process, start_app

NOISE = random.Random(3)
PNG = b"\x89PNG\r\n\x1a\n" + NOISE.randbytes(900_000)
SOUND = b"RIFF" + NOISE.randbytes(100_000)
PDF = b"%PDF-1.7\n" + NOISE.randbytes(2_000)
LOG_BYTES_MAX = 40_000

# The model answers with a digest of the files in the whole conversation.
APP = """
import hashlib

from durable_chat import DurableChat, Settings

chat = DurableChat(settings=Settings(), protocol=True, page=False)

@chat.model
async def answer(turn):
    for message in turn.messages:
        for part in message["parts"]:
            if "source" in part:
                data = await turn.artifact(part)
                yield f"{part['type']} {hashlib.sha256(data).hexdigest()} "
"""


@pytest.fixture
def app(tmp_path: Path, processes: list[Process]) -> Process:
    return start_app(tmp_path / "app", APP, processes)


def part(kind: str, media_type: str, data: bytes) -> Facts:
    value = base64.b64encode(data).decode()
    return {"type": kind, "source": {"type": "data", "value": value, "mimeType": media_type}}


def stored(kind: str, media_type: str, data: bytes) -> Facts:
    value = f"/api/chat-artifact?id=files&artifact={hashlib.sha256(data).hexdigest()}"
    return {"type": kind, "source": {"type": "url", "value": value, "mimeType": media_type}}


FILES = [("image", "image/png", PNG), ("audio", "audio/wav", SOUND)]
SMALL = part("document", "application/pdf", PDF)
CONTENT = [{"type": "text", "content": "look and listen"}, *(part(*file) for file in FILES), SMALL]
SHOWN = [{"type": "text", "content": "look and listen"}, *(stored(*file) for file in FILES), SMALL]
HEARD = "".join(
    f"{kind} {hashlib.sha256(data).hexdigest()} " for kind, _, data in [*FILES, ("document", "application/pdf", PDF)]
)


def run(server: Process, scenario: str, client: str, tmp_path: Path, **options: Any) -> Facts:
    # Longer than a command line may be.
    content = tmp_path / "content.json"
    content.write_text(json.dumps(CONTENT))
    named: dict[str, Any] = {"base": server.url, "session": "files", "client": client, "content": str(content)}
    facts: Facts = play("files.mjs", scenario, **named, **options)
    return facts


def answers(transcript: list[Facts]) -> list[str]:
    return ["".join(part["content"] for part in message["parts"]) for message in transcript[1::2]]


@pytest.mark.cell("tanstack-durable", "attachment")
@pytest.mark.parametrize("client", CLIENTS)
def test_files_of_a_stock_client(app: Process, client: str, tmp_path: Path) -> None:
    """
    The sender, a watching tab, three tabs that load later and the snapshot are equal, and the model gets the bytes.
    """
    facts = run(app, "sent", client, tmp_path, last="and now?")
    for moment, turns in (("first", 1), ("loaded", 1), ("next", 2), ("again", 2)):
        told = facts[moment]["transcript"]
        assert told[0]["parts"] == SHOWN
        assert answers(told) == [HEARD] * turns
        for tab in facts[moment]["tabs"].values():
            assert tab["transcript"] == told
            assert tab["error"] is None
            assert not tab["generating"]
    assert len(facts["loaded"]["tabs"]) == 5
    assert len(json.dumps(facts["log"])) < LOG_BYTES_MAX


@pytest.mark.parametrize("client", CLIENTS)
def test_a_history_with_the_data_in_it(app: Process, client: str, tmp_path: Path) -> None:
    """The same files, posted again as data, give another answer to the same message and are not an edit."""
    facts = run(app, "kept", client, tmp_path)
    first, again = facts["first"]["transcript"], facts["again"]["transcript"]
    assert again[0] == first[0]
    assert again[0]["parts"] == SHOWN
    assert answers(again) == [HEARD]
    assert again[1]["id"] != first[1]["id"]
    assert len(json.dumps(facts["log"])) < LOG_BYTES_MAX
