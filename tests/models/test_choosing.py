"""Which model answers, and what is refused before anything is written."""

from __future__ import annotations

import importlib.util
import pickle

import pytest

from durable_chat.config.settings import Settings
from durable_chat.errors import StartError, Unauthorized, Unavailable
from durable_chat.models.agents import Agent
from durable_chat.models.anthropic.client import AnthropicModel
from durable_chat.models.base import ProviderError, Turn, shown_error
from durable_chat.models.choosing import check_key, choose_model, close_model, summary_model, with_context, with_tools
from durable_chat.models.context.limits import ContextLimit
from durable_chat.models.demo import DELAY_MS_DEFAULT, DemoModel
from durable_chat.models.openai.client import OpenAIModel
from durable_chat.models.outputs import open_output
from durable_chat.models.tools import Tools
from durable_chat.transcripts.chunks import GENERIC_ERROR, InvalidChunk


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ANTHROPIC_API_KEY", "OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


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


@pytest.mark.parametrize(
    ("name", "base_url", "api"),
    [
        ("openai:gpt-5", "", "responses"),
        ("openai:gpt-5", "http://127.0.0.1:8000/v1", "chat"),
        ("openai-chat:gpt-5", "", "chat"),
        ("openai-responses:gpt-5", "http://127.0.0.1:8000/v1", "responses"),
    ],
)
def test_the_api_of_openai(monkeypatch: pytest.MonkeyPatch, name: str, base_url: str, api: str) -> None:
    """The address decides, unless the name says it."""
    monkeypatch.setenv("OPENAI_BASE_URL", base_url)
    model = chosen(DURABLE_CHAT_MODEL=name)
    assert isinstance(model, OpenAIModel)
    assert (model.name, model.api, model.background) == ("gpt-5", api, False)


def test_an_address_that_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is refused at the start, and a password in it is not shown."""
    monkeypatch.setenv("OPENAI_BASE_URL", "localhost:8000")
    with pytest.raises(StartError, match=r"OPENAI_BASE_URL must be .*, not 'localhost:8000'"):
        chosen(DURABLE_CHAT_MODEL="openai:llama3")
    monkeypatch.setenv("OPENAI_BASE_URL", "user:secret@localhost")
    with pytest.raises(StartError) as raised:
        chosen(DURABLE_CHAT_MODEL="openai:llama3")
    assert "secret" not in str(raised.value)


def test_a_model_may_have_colons_in_its_name() -> None:
    """As Ollama's have."""
    model = chosen(DURABLE_CHAT_MODEL="openai:llama3:8b")
    assert isinstance(model, OpenAIModel)
    assert model.name == "llama3:8b"


def test_background_answers_need_the_responses_api() -> None:
    background = {"DURABLE_CHAT_OPENAI_BACKGROUND": "on"}
    model = chosen(DURABLE_CHAT_MODEL="openai:gpt-5", **background)
    assert isinstance(model, OpenAIModel)
    assert model.background
    with pytest.raises(StartError, match="openai-responses:gpt-5"):
        chosen(DURABLE_CHAT_MODEL="openai-chat:gpt-5", **background)


@pytest.mark.parametrize(("name", "extra"), [("openai:gpt-5", "openai"), ("anthropic:claude-x", "anthropic")])
def test_a_missing_package_is_a_start_error(monkeypatch: pytest.MonkeyPatch, name: str, extra: str) -> None:
    """It names the extra to install."""
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda module: None if module == extra else found(module))
    with pytest.raises(StartError, match=rf"pip install 'durable-chat\[{extra}\]'"):
        chosen(DURABLE_CHAT_MODEL=name)


def test_a_key_for_a_package_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo does not answer in the place of the model that somebody pays for."""
    model = choose_model(Settings())
    monkeypatch.setattr(importlib.util, "find_spec", lambda module: None)
    check_key(model, None)
    with pytest.raises(Unavailable, match="anthropic"):
        check_key(model, "key")


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


@pytest.mark.parametrize(
    "name", ["demo:x", "anthropic", "anthropic:", "anthropic: ", "openai", "openai:", "openai-x:gpt", "claude"]
)
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


def test_a_limit_for_the_context() -> None:
    """Every step of an agent is limited, a model with a limit of its own keeps it, and the summarizer is the one set."""
    settings = Settings(context_tokens=900, summary_model="demo", model="demo")
    model = choose_model(settings)
    summarizer = summary_model(settings)
    limited = with_tools(with_context(model, settings, summarizer), Tools(), 4)
    assert isinstance(limited, Agent)
    assert isinstance(limited.model, ContextLimit)
    assert (limited.model.tokens, limited.model.summarizer) == (900, summarizer)
    assert list(limited.own) == ["save_note"]
    assert isinstance(with_context(Agent(model, Tools()), settings), Agent)
    own = ContextLimit(model, 5000)
    assert with_context(own, settings) is own
    assert with_context(model, Settings(model="demo")) is model
    with pytest.raises(StartError, match="Set DURABLE_CHAT_SUMMARY_MODEL"):
        summary_model(Settings(summary_model="x"))
