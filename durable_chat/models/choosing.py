"""
Choose the model that answers: the configured one, otherwise Anthropic's default if there is a key for it, otherwise the
demo.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

from durable_chat.config.addresses import split_url
from durable_chat.config.settings import Settings
from durable_chat.errors import StartError, Unavailable
from durable_chat.models.agents import Agent
from durable_chat.models.anthropic import client as anthropic
from durable_chat.models.anthropic.client import MODEL_DEFAULT, AnthropicModel
from durable_chat.models.base import Model, Turn
from durable_chat.models.context.limits import ContextLimit
from durable_chat.models.demo import DELAY_MS_DEFAULT, DemoModel, save_note
from durable_chat.models.openai import client as openai
from durable_chat.models.openai.client import Api, OpenAIModel
from durable_chat.models.providers.connections import is_installed, require_package
from durable_chat.models.tools import Tools, make_tool

DEMO = "demo"
ANTHROPIC = "anthropic"
OPENAI = "openai"
OPENAI_APIS: dict[str, Api | None] = {OPENAI: None, "openai-chat": "chat", "openai-responses": "responses"}
"""The API of OpenAI by the first part of a model's name. None: it depends on the address."""

KEY_VARIABLES = (anthropic.KEY_VARIABLE, openai.KEY_VARIABLE)
"""The environment variables with the providers' keys."""

CHOICES = "demo, anthropic:MODEL, openai:MODEL, openai-chat:MODEL or openai-responses:MODEL"


def choose_model(settings: Settings) -> Model:
    """Return the model of `DURABLE_CHAT_MODEL`. Raises StartError for an unknown one, or a missing package."""
    if settings.model is None:
        has_key = bool(os.environ.get(anthropic.KEY_VARIABLE, "").strip())
        return _anthropic(MODEL_DEFAULT) if has_key else _DemoOrKey(settings)
    provider, _, name = settings.model.partition(":")
    if provider == DEMO and not name:
        return _demo(settings)
    if provider == ANTHROPIC and name.strip():
        return _anthropic(name.strip())
    if provider in OPENAI_APIS and name.strip():
        return _openai(provider, name.strip(), settings)
    raise StartError(f"Unknown model {settings.model!r}. Set DURABLE_CHAT_MODEL to {CHOICES}.")


def _anthropic(name: str) -> AnthropicModel:
    require_package(ANTHROPIC, f"{ANTHROPIC}:{name}")
    return AnthropicModel(name)


def _openai(provider: str, name: str, settings: Settings) -> OpenAIModel:
    require_package(OPENAI, f"{provider}:{name}")
    url = os.environ.get(openai.URL_VARIABLE, "").strip()
    if url and split_url(url) is None:
        shown = "" if "@" in url else f", not {url!r}"  # a password may be in it
        raise StartError(f"{openai.URL_VARIABLE} must be an http:// or https:// address{shown}.")
    model = OpenAIModel(name, api=OPENAI_APIS[provider])
    if settings.openai_background == "off":
        return model
    if model.api != "responses":
        raise StartError(
            f"DURABLE_CHAT_OPENAI_BACKGROUND is on, but {settings.model} uses Chat Completions, which has no background "
            f"answers. Set DURABLE_CHAT_MODEL=openai-responses:{name}, or turn it off."
        )
    return OpenAIModel(name, api=model.api, background=True)


def check_key(model: Model, api_key: str | None) -> None:
    """Raise Unauthorized when the model needs a key and there is none. Call this before anything is written."""
    check = getattr(model, "check", None)
    if check is not None:
        check(api_key)


async def close_model(model: Model | None) -> None:
    """Close the model's connections, if it has any."""
    aclose = getattr(model, "aclose", None)
    if aclose is not None:
        await aclose()


def with_tools(model: Model, tools: Tools, max_steps: int) -> Model:
    """Return the model as an agent with these tools. The demo has its own tool, which asks for approval."""
    answering = model.model if isinstance(model, ContextLimit) else model
    own = [make_tool(save_note, needs_approval=True)] if isinstance(answering, DemoModel | _DemoOrKey) else []
    if own or len(tools) or isinstance(answering, AnthropicModel | OpenAIModel):
        return Agent(model, tools, own=own, max_steps=max_steps)
    return model


def summary_model(settings: Settings) -> Model | None:
    """
    Return the model of `DURABLE_CHAT_SUMMARY_MODEL`, or None if none is set. Raises StartError for an unknown one.
    """
    if settings.summary_model is None:
        return None
    try:
        # A summary is not in the log while it is written, so its provider's answer could not be joined.
        return choose_model(replace(settings, model=settings.summary_model, openai_background="off"))
    except StartError as error:
        raise StartError(str(error).replace("DURABLE_CHAT_MODEL", "DURABLE_CHAT_SUMMARY_MODEL")) from None


def with_context(model: Model, settings: Settings, summarizer: Model | None = None) -> Model:
    """
    Return the model with the limit of `DURABLE_CHAT_CONTEXT_TOKENS`, unless it has its own. Each step of an agent
    counts.
    """
    if settings.context_tokens is None or isinstance(model, ContextLimit):
        return model
    if isinstance(model, Agent):
        limited = with_context(model.model, settings, summarizer)
        return Agent(limited, model.tools, own=model.own.values(), max_steps=model.max_steps)
    return ContextLimit(model, settings.context_tokens, summarizer)


class _DemoOrKey:
    """
    The model without configuration: the demo answers, unless a turn has a key, which is used for Anthropic's default
    model.
    """

    provider = ANTHROPIC

    def __init__(self, settings: Settings) -> None:
        self._demo = _demo(settings)
        self._anthropic: AnthropicModel | None = None

    def __call__(self, turn: Turn, /) -> AsyncIterator[Any]:
        if not turn.api_key:
            return self._demo(turn)
        return self._claude()(turn)

    def _claude(self) -> AnthropicModel:
        self._anthropic = self._anthropic or AnthropicModel(MODEL_DEFAULT)
        return self._anthropic

    async def count_tokens(self, turn: Turn) -> int | None:
        """See `AnthropicModel.count_tokens`. The demo counts nothing."""
        return await self._claude().count_tokens(turn) if turn.api_key else None

    def check(self, api_key: str | None) -> None:
        """Check a key that the client sends. The demo needs none."""
        if not api_key:
            return
        if not is_installed(ANTHROPIC):
            raise Unavailable("This server cannot use the API key: durable-chat[anthropic] is not installed.")
        AnthropicModel(MODEL_DEFAULT).check(api_key)

    async def aclose(self) -> None:
        if self._anthropic is not None:
            await self._anthropic.aclose()


def _demo(settings: Settings) -> DemoModel:
    delay_ms = DELAY_MS_DEFAULT if settings.demo_delay_ms is None else settings.demo_delay_ms
    return DemoModel(settings.demo_chunks, delay_ms)
