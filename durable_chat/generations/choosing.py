"""
Choose an adapter by its name: `demo`, `openai:MODEL`, or for summaries `anthropic:MODEL`.
"""

from __future__ import annotations

from typing import Any

from durable_chat.errors import StartError
from durable_chat.generations.adapters import Activity, Adapter
from durable_chat.generations.demo.images import DemoImages
from durable_chat.generations.demo.speech import DemoSpeech
from durable_chat.generations.demo.texts import DemoSummary, DemoTranscription
from durable_chat.generations.demo.videos import DemoVideo
from durable_chat.generations.openai.audio import OpenAISpeech, OpenAITranscription
from durable_chat.generations.openai.images import OpenAIImages
from durable_chat.generations.openai.videos import OpenAIVideo
from durable_chat.generations.summarizing import ModelSummarizer
from durable_chat.models.anthropic.client import AnthropicModel
from durable_chat.models.openai.client import OpenAIModel
from durable_chat.models.providers.connections import require_package

DEMO = "demo"
OPENAI = "openai"
ANTHROPIC = "anthropic"

_DEMOS: dict[Activity, Any] = {
    "image": DemoImages,
    "speech": DemoSpeech,
    "transcription": DemoTranscription,
    "summary": DemoSummary,
    "video": DemoVideo,
}
_OPENAI: dict[Activity, Any] = {
    "image": OpenAIImages,
    "speech": OpenAISpeech,
    "transcription": OpenAITranscription,
    "summary": lambda model: ModelSummarizer(OpenAIModel(model)),
    "video": OpenAIVideo,
}


def adapter_of(activity: Activity, adapter: Adapter | str) -> Adapter:
    """Return the adapter, which may be given by its name. Raises StartError for an unknown name."""
    return choose_adapter(activity, adapter) if isinstance(adapter, str) else adapter


def choose_adapter(activity: Activity, name: str) -> Adapter:
    """Return the adapter of a name. Raises StartError for an unknown one, and if its package is missing."""
    provider, _, model = name.partition(":")
    adapter: Adapter
    if provider == DEMO and not model:
        adapter = _DEMOS[activity]()
        return adapter
    if provider == OPENAI and model.strip():
        require_package(OPENAI, name)
        adapter = _OPENAI[activity](model.strip())
        return adapter
    if provider == ANTHROPIC and model.strip() and activity == "summary":
        require_package(ANTHROPIC, name)
        return ModelSummarizer(AnthropicModel(model.strip()))
    more = ", anthropic:<model>" if activity == "summary" else ""
    raise StartError(f"Unknown adapter {name!r} for {activity}. Use demo, openai:<model>{more}.")
