"""
Files and the model: Anthropic gets the files it can read and a sentence for the others. The demo model lists the
attachments.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import AsyncIterator
from typing import Any

import pytest

from durable_chat.errors import NotFound
from durable_chat.models.anthropic.client import AnthropicModel
from durable_chat.models.anthropic.files import (
    FILES_CHARS_MAX,
    FILES_MAX,
    IMAGE_CHARS_MAX,
    TEXT_BYTES_MAX,
    with_files,
)
from durable_chat.models.base import Turn
from durable_chat.models.choosing import with_tools
from durable_chat.models.demo import DemoModel
from durable_chat.models.pictures import picture_of
from durable_chat.models.tools import Tools
from durable_chat.transcripts.attachments import ARTIFACT_ROUTE, hash_of
from tests.api.test_artifact_routes import asking, file
from tests.models.strict import Strict
from tests.sessions.serving import Chat, listening, serve_chat, texts, user

PNG = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", 800, 600)
BIG_PNG = PNG + bytes(200_000)
GIF = b"GIF89a" + struct.pack("<HH", 5, 5) + b"..."
PDF = b"%PDF-1.7\n" + bytes(200_000)
WORDS = b"many words " * 20_000
IMAGE_BYTES_MAX = IMAGE_CHARS_MAX // 4 * 3


@pytest.fixture
async def chat(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Chat, Strict]]:
    provider = Strict()
    monkeypatch.setenv("ANTHROPIC_API_KEY", "test-key-ABCDEF-0123456789")
    async with listening(provider.app) as address:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", address)
        model = AnthropicModel("m", max_retries=0)
        async with serve_chat(with_tools(model, Tools([]), 4)) as made:
            yield made, provider
        await model.aclose()


def data_of(block: dict[str, Any]) -> tuple[str, str, bytes]:
    source = block["source"]
    data = source["data"]
    return block["type"], source["media_type"], data.encode() if source["type"] == "text" else base64.b64decode(data)


async def test_the_provider_gets_the_bytes(chat: tuple[Chat, Strict]) -> None:
    """Short and long images, PDF and text are sent in this turn and in the next one."""
    served, provider = chat
    parts = [file(BIG_PNG), file(PNG), file(PDF, "application/pdf", "document"), file(WORDS, "text/csv", "document")]
    assert (await served.post("s", asking(*parts), mode="await")).status_code == 200
    assert (await served.post("s", user("go on", "u2"), mode="await")).status_code == 200
    assert provider.refused == []
    for request in provider.requests:
        text, *files = request["messages"][0]["content"]
        assert text == {"type": "text", "text": "look"}
        assert [data_of(block) for block in files] == [
            ("image", "image/png", BIG_PNG),
            ("image", "image/png", PNG),
            ("document", "application/pdf", PDF),
            ("document", "text/plain", WORDS),
        ]


async def test_what_it_cannot_read_ends_no_turn(chat: tuple[Chat, Strict]) -> None:
    """A sentence replaces an unreadable file, and a wrong media type is corrected."""
    served, provider = chat
    parts = [
        file(b"RIFF", "audio/wav", "audio"),
        file(b"x" * 100_000, "video/mp4", "video"),
        file(b"<svg>", "image/svg+xml"),
        file(b"no image at all", "image/png"),
        file(b"no PDF", "application/pdf", "document"),
        file(b"\xff\xfe", "text/plain", "document"),
        file(b" ", "text/plain", "document"),
        file(b"PK", "application/zip", "document"),
        file(PNG + bytes(IMAGE_BYTES_MAX), "image/png"),
        file(PNG[:16] + struct.pack(">II", 8001, 600), "image/png"),
        file(b"a" * (TEXT_BYTES_MAX + 1), "text/plain", "document"),
        {"type": "image", "source": {"type": "url", "value": "http://host.example/x.png"}},
        {"type": "image", "source": {"type": "url", "value": f"{ARTIFACT_ROUTE}?id=s&artifact={'0' * 64}"}},
        {"type": "image", "source": {"type": "url", "value": f"https://h{ARTIFACT_ROUTE}?id=t&artifact={'0' * 64}"}},
        {
            "type": "document",
            "source": {"type": "url", "value": "https://h.example/x.zip", "mimeType": "application/zip"},
        },
        {"type": "image", "source": {"type": "url", "value": "https://host.example/x.png"}},
        file(GIF, "image/png"),
    ]
    assert (await served.post("s", asking(*parts), mode="await")).status_code == 200
    assert provider.refused == []
    told = provider.requests[0]["messages"][0]["content"][1:]
    assert [block["type"] for block in told] == ["text"] * (len(parts) - 2) + ["image", "image"]
    assert told[0]["text"] == "(Here the user attached an audio file (audio/wav), which you cannot read.)"
    assert "too large" in told[8]["text"]
    assert "too large" in told[9]["text"]
    assert "too large" in told[10]["text"]
    assert "no longer available" in told[12]["text"]
    assert told[-2]["source"] == {"type": "url", "url": "https://host.example/x.png"}
    assert data_of(told[-1]) == ("image", "image/gif", GIF)


async def test_the_newest_files_first() -> None:
    """If all files are too much for one request, sentences replace the older ones."""
    pictures = [PNG + bytes([number]) * (IMAGE_BYTES_MAX - 100) for number in range(8)]
    stored = {hash_of(data): data for data in pictures[:-1]}
    loaded: list[str] = []

    async def load(artifact_id: str) -> bytes:
        loaded.append(artifact_id)
        if artifact_id not in stored:
            raise NotFound("It is gone.")
        return stored[artifact_id]

    def part(data: bytes) -> dict[str, Any]:
        value = f"{ARTIFACT_ROUTE}?id=s&artifact={hash_of(data)}"
        return {"type": "image", "source": {"type": "url", "value": value, "mimeType": "image/png"}}

    messages = [asking(part(data), message_id=f"u{number}") for number, data in enumerate(pictures)]
    turn = Turn(tuple(messages), "s", "r", load=load)
    given = [message["parts"][1] for message in await with_files(turn)]
    kept = FILES_CHARS_MAX // IMAGE_CHARS_MAX
    assert [part["type"] for part in given] == ["text"] * (7 - kept) + ["image"] * kept + ["text"]
    assert "too many newer files" in given[0]["content"]
    assert "no longer available" in given[-1]["content"]


async def test_a_file_that_is_refused_ends_no_turn(chat: tuple[Chat, Strict]) -> None:
    """
    If the provider refuses a file, the request is sent once more with a sentence instead, and this turn and the next
    one continue.
    """
    served, provider = chat
    provider.broken = base64.b64encode(BIG_PNG).decode()
    assert (await served.post("s", asking(file(BIG_PNG)), mode="await")).status_code == 200
    assert (await served.post("s", user("go on", "u2"), mode="await")).status_code == 200
    assert len(provider.requests) == 4
    for refused, taken in (provider.requests[:2], provider.requests[2:]):
        assert refused["messages"][0]["content"][1]["type"] == "image"
        assert "could not be read" in taken["messages"][0]["content"][1]["text"]
    provider.broken = None
    text = {"id": "u3", "role": "user", "parts": [{"type": "text", "content": "plain"}]}
    assert (await served.post("t", text, mode="await")).status_code == 200
    assert len(provider.requests) == 5


@pytest.mark.parametrize("count", [19, 20, 21])
async def test_so_many_files(count: int) -> None:
    """Above the maximum number, sentences replace the older files, including external URLs."""
    outside = {"type": "image", "source": {"type": "url", "value": "https://host.example/x.png"}}
    messages = [asking(outside if number % 2 else file(PNG), message_id=f"u{number}") for number in range(count)]
    given = [message["parts"][1]["type"] for message in await with_files(Turn(tuple(messages), "s", "r"))]
    assert given == ["text"] * max(count - FILES_MAX, 0) + ["image"] * min(count, FILES_MAX)


JPEG = b"\xff\xd8\xff\xe0\x00\x04\x01\x02\xff\xff\xd0\xff\xc4\x00\x02\xff\xc2\x00\x0b\x08\x02\x58\x03\x20\x01"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (PNG, ("image/png", 800, 600)),
        (GIF, ("image/gif", 5, 5)),
        (JPEG, ("image/jpeg", 800, 600)),
        (b"RIFF....WEBPVP8 " + bytes(10) + struct.pack("<HH", 800 | 0x4000, 600), ("image/webp", 800, 600)),
        (b"RIFF....WEBPVP8L" + bytes(5) + struct.pack("<I", 799 | 599 << 14) + bytes(5), ("image/webp", 800, 600)),
        (b"RIFF....WEBPVP8X" + bytes(8) + b"\x1f\x03\x00\x57\x02\x00", ("image/webp", 800, 600)),
        (b"RIFF....WEBPVP9 " + bytes(20), None),
        (PNG[:20], None),
        (GIF[:9], None),
        (JPEG[:-5], None),
        (JPEG[:12] + b"no marker here", None),
        (b"BM" + bytes(40), None),
        (b"", None),
    ],
)
def test_what_a_picture_is(data: bytes, expected: tuple[str, int, int] | None) -> None:
    """Each type is recognised by its first bytes. Truncated bytes are not recognised."""
    assert picture_of(data) == expected


async def test_the_demo_says_what_was_attached() -> None:
    """The demo model names the kind, type and size of a file, and says if its URL is external."""
    outside = {"type": "document", "source": {"type": "url", "value": "https://host.example/x.pdf"}}
    async with serve_chat(DemoModel(delay_ms=0)) as chat:
        await chat.post("s", asking(file(BIG_PNG), outside), mode="await")
        (_, (_, said)) = texts(await chat.snapshot("s"))
        assert "**image** (image/png, 200,024 bytes), **document** (of no type, at another address)" in said
