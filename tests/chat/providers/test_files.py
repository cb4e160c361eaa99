"""Files at the model: what Anthropic can read it is given, of the rest it is told; the demo says what was attached."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from typing import Any

import pytest

from durable_chat.chat.attachments import ARTIFACT_ROUTE, hash_of
from durable_chat.chat.providers.anthropic import AnthropicModel
from durable_chat.chat.providers.anthropic_files import FILES_CHARS_MAX, IMAGE_CHARS_MAX, TEXT_BYTES_MAX, with_files
from durable_chat.chat.providers.base import Turn
from durable_chat.chat.providers.choosing import with_tools
from durable_chat.chat.providers.demo import DemoModel
from durable_chat.chat.tools import Tools
from durable_chat.errors import NotFound
from tests.chat.providers.strict import Strict
from tests.chat.serving import Chat, listening, serve_chat, texts, user
from tests.chat.test_artifact_routes import asking, file

PNG = b"\x89PNG\r\n\x1a\n"
BIG_PNG = PNG + bytes(200_000)
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
    """Short and long images, PDF and text, in this turn and in the next one."""
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
    """It is told what there was; a type that is not what the bytes are is put right."""
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
        file(b"a" * (TEXT_BYTES_MAX + 1), "text/plain", "document"),
        {"type": "image", "source": {"type": "url", "value": "http://host.example/x.png"}},
        {"type": "image", "source": {"type": "url", "value": f"{ARTIFACT_ROUTE}?id=s&artifact={'0' * 64}"}},
        {"type": "image", "source": {"type": "url", "value": f"https://h{ARTIFACT_ROUTE}?id=t&artifact={'0' * 64}"}},
        {
            "type": "document",
            "source": {"type": "url", "value": "https://h.example/x.zip", "mimeType": "application/zip"},
        },
        {"type": "image", "source": 5},
        {"type": "image"},
        {"type": "image", "source": {"type": "url", "value": "https://host.example/x.png"}},
        file(b"GIF89a...", "image/png"),
    ]
    assert (await served.post("s", asking(*parts), mode="await")).status_code == 200
    assert provider.refused == []
    told = provider.requests[0]["messages"][0]["content"][1:]
    assert [block["type"] for block in told] == ["text"] * (len(parts) - 2) + ["image", "image"]
    assert told[0]["text"] == "(Here the user attached an audio file (audio/wav), which you cannot read.)"
    assert "too large" in told[8]["text"]
    assert "too large" in told[9]["text"]
    assert "not there any more" in told[11]["text"]
    assert told[-2]["source"] == {"type": "url", "url": "https://host.example/x.png"}
    assert data_of(told[-1]) == ("image", "image/gif", b"GIF89a...")


async def test_the_newest_files_first() -> None:
    """Where all of them would be too much for one request, the older ones are told of, without a hole."""
    pictures = [PNG + bytes([number]) * (IMAGE_BYTES_MAX - 10) for number in range(8)]
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
    assert "too many files" in given[0]["content"]
    assert "not there any more" in given[-1]["content"]


async def test_the_demo_says_what_was_attached() -> None:
    """Kind, type and size; of an address outside, that it is one."""
    outside = {"type": "document", "source": {"type": "url", "value": "https://host.example/x.pdf"}}
    async with serve_chat(DemoModel(delay_ms=0)) as chat:
        await chat.post("s", asking(file(BIG_PNG), outside), mode="await")
        (_, (_, said)) = texts(await chat.snapshot("s"))
        assert "**image** (image/png, 200,008 bytes), **document** (of no type, at another address)" in said
