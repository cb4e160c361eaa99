"""
Remove secrets from the output of providers and tools before it is logged.
"""

from __future__ import annotations

from collections.abc import Iterable

from durable_chat.transcripts.chunks import encode_json

SECRET_CHARS_MIN = 6
"""Minimum length of a secret to remove. A shorter one protects nothing and occurs in ordinary words."""

CONCEALED = "***"


def conceal(text: str, secrets: Iterable[str]) -> str:
    """Return the text with secrets replaced, including secrets in JSON."""
    for secret in secrets:
        if len(secret) < SECRET_CHARS_MIN:
            continue
        for written in (secret, encode_json(secret).decode()[1:-1]):
            text = text.replace(written, CONCEALED)
    return text
