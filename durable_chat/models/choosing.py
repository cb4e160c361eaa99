"""
Choose the model that answers: the configured one, otherwise Anthropic's default if there is a key for it, otherwise the
demo.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from typing import Any

from durable_chat.config import Settings
from durable_chat.errors import StartError
from durable_chat.models.agents import Agent
from durable_chat.models.anthropic.client import KEY_VARIABLE, MODEL_DEFAULT, AnthropicModel
from durable_chat.models.base import Model, Turn
from durable_chat.models.demo import DELAY_MS_DEFAULT, DemoModel, save_note
from durable_chat.models.tools import Tools, make_tool

DEMO = "demo"
ANTHROPIC = "anthropic"


def choose_model(settings: Settings) -> Model:
    """Return the model of `DURABLE_CHAT_MODEL`. Raises StartError for an unknown one."""
    if settings.model is None:
        return AnthropicModel(MODEL_DEFAULT) if os.environ.get(KEY_VARIABLE, "").strip() else _DemoOrKey(settings)
    provider, _, name = settings.model.partition(":")
    if provider == DEMO and not name:
        return _demo(settings)
    if provider == ANTHROPIC and name.strip():
        return AnthropicModel(name.strip())
    raise StartError(f"Unknown model {settings.model!r}. Set DURABLE_CHAT_MODEL to demo or anthropic:<model>.")


def check_key(model: Model, api_key: str | None) -> None:
    """Raise Unauthorized when the model needs a key and there is none. Call this before anything is written."""
    check = getattr(model, "check", None)
    if check is not None:
        check(api_key)


async def close_model(model: Model) -> None:
    """Close the model's connections, if it has any."""
    aclose = getattr(model, "aclose", None)
    if aclose is not None:
        await aclose()


def with_tools(model: Model, tools: Tools, max_steps: int) -> Model:
    """Return the model as an agent with these tools. The demo has its own tool, which asks for approval."""
    own = [make_tool(save_note, needs_approval=True)] if isinstance(model, DemoModel | _DemoOrKey) else []
    if own or len(tools) or isinstance(model, AnthropicModel):
        return Agent(model, tools, own=own, max_steps=max_steps)
    return model


class _DemoOrKey:
    """
    The model without configuration: the demo answers, unless a turn has a key, which is used for Anthropic's default
    model.
    """

    def __init__(self, settings: Settings) -> None:
        self._demo = _demo(settings)
        self._anthropic: AnthropicModel | None = None

    def __call__(self, turn: Turn, /) -> AsyncIterator[Any]:
        if not turn.api_key:
            return self._demo(turn)
        self._anthropic = self._anthropic or AnthropicModel(MODEL_DEFAULT)
        return self._anthropic(turn)

    def check(self, api_key: str | None) -> None:
        """Check a key that the client sends. The demo needs none."""
        if api_key:
            AnthropicModel(MODEL_DEFAULT).check(api_key)

    async def aclose(self) -> None:
        if self._anthropic is not None:
            await self._anthropic.aclose()


def _demo(settings: Settings) -> DemoModel:
    delay_ms = DELAY_MS_DEFAULT if settings.demo_delay_ms is None else settings.demo_delay_ms
    return DemoModel(settings.demo_chunks, delay_ms)
