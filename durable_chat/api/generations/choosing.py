"""
Choose the adapters of generations: the application's own ones, otherwise those of DURABLE_CHAT_GENERATE.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping

from durable_chat.config.settings import Settings
from durable_chat.errors import StartError
from durable_chat.generations.adapters import INPUTS, Activity, Adapter
from durable_chat.generations.choosing import DEMO, adapter_of, choose_adapter
from durable_chat.generations.openai import audio, images, videos

OPENAI = "openai"
OFF = "off"
OPENAI_KEY = "OPENAI_API_KEY"

OPENAI_DEFAULTS: Mapping[Activity, str] = {
    "image": images.MODEL_DEFAULT,
    "speech": audio.SPEECH_MODEL_DEFAULT,
    "transcription": audio.TRANSCRIPTION_MODEL_DEFAULT,
    "summary": "gpt-5-mini",
    "video": videos.MODEL_DEFAULT,
}
"""The models of `openai` without a model's name."""

log = logging.getLogger(__name__)


def choose_adapters(settings: Settings, own: Mapping[Activity, Adapter | str]) -> dict[Activity, Adapter]:
    """Return the adapter of each activity that this server offers. Raises StartError."""
    if unknown := own.keys() - INPUTS.keys():
        raise StartError(f"Unknown activity {min(unknown)!r} in generations. Use {', '.join(INPUTS)}.")
    named = _named(settings.generate) if settings.generate is not None else {}
    found: dict[Activity, Adapter] = {}
    for activity in INPUTS:
        name = named.get(activity)
        if activity in own:
            found[activity] = adapter_of(activity, own[activity])
        elif settings.generate is None:
            found[activity] = _default(activity)
        elif name is not None and name != OFF:
            found[activity] = choose_adapter(activity, _whole(activity, name))
    return found


def _named(text: str) -> dict[Activity, str]:
    """Read `demo`, or `image=openai:gpt-image-1,video=demo`. An activity that is not named is off then."""
    if "=" not in text:
        return dict.fromkeys(INPUTS, text.strip())
    found: dict[Activity, str] = {}
    for part in text.split(","):
        activity, _, name = (each.strip() for each in part.partition("="))
        known = next((each for each in INPUTS if each == activity), None)
        if known is None or not name:
            raise StartError(
                f"DURABLE_CHAT_GENERATE has the unknown part {part.strip()!r}. Write activity=adapter, for example "
                f"image=openai:gpt-image-1. The activities are {', '.join(INPUTS)}."
            )
        found[known] = name
    return found


def _whole(activity: Activity, name: str) -> str:
    return f"{OPENAI}:{OPENAI_DEFAULTS[activity]}" if name == OPENAI else name


def _default(activity: Activity) -> Adapter:
    """Return OpenAI's adapter if there is a key for it, otherwise the demo."""
    if os.environ.get(OPENAI_KEY, "").strip():
        try:
            return choose_adapter(activity, _whole(activity, OPENAI))
        except StartError as error:
            log.warning("Generations use the demo adapters, although %s is set: %s", OPENAI_KEY, error)
    return choose_adapter(activity, DEMO)
