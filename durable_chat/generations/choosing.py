"""
Choose an adapter by its name: `demo`, or `openai:MODEL`.
"""

from __future__ import annotations

from typing import Any

from durable_chat.errors import StartError
from durable_chat.generations.adapters import Activity, Adapter
from durable_chat.generations.demo.images import DemoImages
from durable_chat.generations.demo.speech import DemoSpeech
from durable_chat.generations.demo.texts import DemoSummary, DemoTranscription
from durable_chat.generations.demo.videos import DemoVideo

DEMO = "demo"

_DEMOS: dict[Activity, Any] = {
    "image": DemoImages,
    "speech": DemoSpeech,
    "transcription": DemoTranscription,
    "summary": DemoSummary,
    "video": DemoVideo,
}


def adapter_of(activity: Activity, adapter: Adapter | str) -> Adapter:
    """Return the adapter, which may be given by its name. Raises StartError for an unknown name."""
    return choose_adapter(activity, adapter) if isinstance(adapter, str) else adapter


def choose_adapter(activity: Activity, name: str) -> Adapter:
    """Return the adapter of a name. Raises StartError for an unknown one."""
    provider, _, model = name.partition(":")
    if provider == DEMO and not model:
        adapter: Adapter = _DEMOS[activity]()
        return adapter
    raise StartError(f"Unknown adapter {name!r} for {activity}. Use demo or openai:<model>.")
