"""Which model answers, and what is refused before anything is written."""

from __future__ import annotations

import pickle

import pytest

from durable_chat.config import Settings
from durable_chat.errors import StartError, Unauthorized
from durable_chat.models.anthropic.client import AnthropicModel
from durable_chat.models.base import ProviderError, Turn, shown_error
from durable_chat.models.choosing import check_key, choose_model, close_model
from durable_chat.models.demo import DELAY_MS_DEFAULT, DemoModel
from durable_chat.models.outputs import open_output
from durable_chat.transcripts.chunks import GENERIC_ERROR, InvalidChunk


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)


def chosen(**environment: str) -> object:
    return choose_model(Settings.from_env(environment))


def turn(api_key: str | None = None) -> Turn:
    message = {"id": "u", "role": "user", "parts": [{"type": "text", "content": "hello"}]}
    return Turn(messages=(message,), session_id="s", run_id="r", api_key=api_key)


def test_the_setting_chooses() -> None:
    assert chosen(DURABLE_CHAT_MODEL="demo") == DemoModel(None, DELAY_MS_DEFAULT)
    settings = {"DURABLE_CHAT_DEMO_CHUNKS": "3", "DURABLE_CHAT_DEMO_DELAY_MS": "0"}
    assert chosen(DURABLE_CHAT_MODEL="demo", **settings) == DemoModel(3, 0)
    model = chosen(DURABLE_CHAT_MODEL="anthropic:claude-x")
    assert isinstance(model, AnthropicModel)
    assert model.name == "claude-x"


def test_a_key_in_the_environment_chooses_anthropic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "k")
    model = chosen()
    assert isinstance(model, AnthropicModel)
    assert model.name == "claude-sonnet-4-6"


async def test_without_anything_the_demo_answers_unless_a_turn_brings_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user's own key stands for Anthropic's default model; without one nothing is refused."""
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "http://127.0.0.1:1")
    model = choose_model(Settings.from_env({"DURABLE_CHAT_DEMO_CHUNKS": "1", "DURABLE_CHAT_DEMO_DELAY_MS": "0"}))
    check_key(model, None)
    check_key(model, "key")
    last = [chunk async for chunk in await open_output(model, turn())][-1]
    assert isinstance(last, dict)
    assert last["metadata"]["tanstack"]["model"] == "demo"
    with pytest.raises(ProviderError) as raised:
        _ = [chunk async for chunk in await open_output(model, turn("key"))]
    assert raised.value.code == "provider_unreachable"
    await close_model(model)


@pytest.mark.parametrize("name", ["demo:x", "anthropic", "anthropic:", "anthropic: ", "openai:gpt", "claude"])
def test_an_unknown_model_is_a_start_error(name: str) -> None:
    with pytest.raises(StartError):
        chosen(DURABLE_CHAT_MODEL=name)


async def test_a_missing_key_is_refused() -> None:
    """Before anything is written, with a code the page can tell its user by."""
    model = choose_model(Settings.from_env({"DURABLE_CHAT_MODEL": "anthropic:claude-x"}))
    with pytest.raises(Unauthorized) as raised:
        check_key(model, None)
    assert (raised.value.status, raised.value.code) == (401, "missing_api_key")
    check_key(model, "key")
    await close_model(model)


async def test_a_function_is_a_model() -> None:
    """An application's own model has nothing to check and nothing to close."""

    async def own(turn: Turn):  # type: ignore[no-untyped-def]
        yield "words"

    check_key(own, None)
    await close_model(own)


def test_only_a_providers_words_are_shown() -> None:
    """Text of any other exception may hold anything."""
    assert shown_error(ProviderError("Try later.", "busy")).message == "Try later."
    assert shown_error(ValueError("secret")).message == GENERIC_ERROR
    assert shown_error(InvalidChunk("5")).code == "invalid_chunk"


def test_a_turns_key_is_kept_to_itself() -> None:
    assert "secret-key" not in repr(turn("secret-key"))
    with pytest.raises(TypeError):
        pickle.dumps(turn("secret-key"))
