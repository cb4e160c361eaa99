"""Which adapters generate: the application's own ones, otherwise those of DURABLE_CHAT_GENERATE, otherwise by the keys."""

from __future__ import annotations

from typing import Any

import pytest

from durable_chat.api.generations.choosing import choose_adapters
from durable_chat.config.settings import Settings
from durable_chat.errors import StartError


def chosen(generate: str | None, **own: Any) -> dict[str, str]:
    found = choose_adapters(Settings(store="memory://", generate=generate), own)  # type: ignore[arg-type]
    return {activity: adapter.model for activity, adapter in found.items()}


def test_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a key the demo generates, and with one OpenAI."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    assert set(chosen(None).values()) == {"demo"}
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    assert chosen(None)["image"] == "gpt-image-1"
    assert chosen("openai") == chosen(None)


def test_a_list() -> None:
    """Each activity may have an adapter of its own. One that is not named is off."""
    assert chosen("image=openai:gpt-image-1.5, video=demo") == {"image": "gpt-image-1.5", "video": "demo"}
    assert chosen("off") == {}


def test_own_adapters() -> None:
    """The application's adapter, or its name, comes before the setting."""

    class Mine:
        model = "mine"

    assert chosen("demo", image=Mine(), video="openai:sora-2-pro") == chosen("demo") | {
        "image": "mine",
        "video": "sora-2-pro",
    }


@pytest.mark.parametrize("generate", ["midjourney", "image=", "picture=demo", "image=demo:x"])
def test_an_unknown_name(generate: str) -> None:
    """A name that means nothing keeps the server from starting."""
    with pytest.raises(StartError):
        chosen(generate)


def test_an_unknown_activity() -> None:
    """An adapter for an activity that there is not is a mistake."""
    with pytest.raises(StartError, match="'music'"):
        chosen("demo", music="demo")
