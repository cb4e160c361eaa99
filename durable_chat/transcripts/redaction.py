"""
Secrets are taken out of what a provider or a tool says, before it goes into any log.
"""

from __future__ import annotations

from collections.abc import Iterable

from durable_chat.transcripts.chunks import encode_json

SECRET_CHARS_MIN = 6
"""A shorter one guards nothing, and is a part of ordinary words."""

CONCEALED = "***"


def conceal(text: str, secrets: Iterable[str]) -> str:
    """The text without the secrets, also where it is JSON."""
    for secret in secrets:
        if len(secret) < SECRET_CHARS_MIN:
            continue
        for written in (secret, encode_json(secret).decode()[1:-1]):
            text = text.replace(written, CONCEALED)
    return text
