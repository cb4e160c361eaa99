"""The lines that a command prints at startup: its address, who may use it, and warnings about unknown settings."""

from __future__ import annotations

import difflib
import logging
import os
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path

from durable_chat.config.settings import Settings, describe

PREFIX = "DURABLE_CHAT_"
PROVIDER_LOGGERS = ("anthropic", "httpcore", "httpcore2", "httpx", "httpx2", "openai")
"""Clients of model providers. At level debug they log what they send, that is, the messages of users."""
VERBOSE_LOGGERS = ("uvicorn", "alembic", *PROVIDER_LOGGERS)
"""Loggers that report each start, request and migration at level info, and problems as warnings."""

SECRET_FLAGS = {"secret": "--ds-secret", "token_secret": "--token-secret"}


def unknown_variables(environ: Iterable[str]) -> list[str]:
    """Return a sentence for each variable that looks like a setting but is not one."""
    known = sorted(env for item in fields(Settings) if (env := describe(item).env) is not None)
    said = []
    for name in sorted(name for name in environ if name.startswith(PREFIX) and name not in known):
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
        hint = f" Did you mean {near[0]}?" if near else ""
        said.append(f"The environment variable {name} is not a setting and has no effect.{hint}")
    return said


def secret_flag_warnings(given: Mapping[str, object]) -> list[str]:
    """Return a sentence for each secret that was given as a flag."""
    return [
        f"Other users of this machine can see the value of {flag} in the list of processes. "
        f"Use the environment or {flag}-file instead."
        for name, flag in SECRET_FLAGS.items()
        if given.get(name)
    ]


def set_log_levels(level: str) -> None:
    """Log to standard error. No level logs what users write: the clients of providers stay above debug."""
    logging.basicConfig(level=level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("durable_chat.access").setLevel(logging.INFO)  # DURABLE_CHAT_ACCESS_LOG turns it on and off
    quiet = PROVIDER_LOGGERS if level == "debug" else VERBOSE_LOGGERS
    floor = logging.INFO if level == "debug" else logging.WARNING
    for name in quiet:
        logging.getLogger(name).setLevel(max(floor, logging.getLogger().level))


def start_lines(settings: Settings, address: str) -> list[str]:
    """Return the address, the store, the model, and who may read and write."""
    return [
        f"durable-chat on {address}",
        f"  store: {store_of(settings)}",
        f"  model: {settings.model or default_model()}",
        f"  chat: {readers_of(settings)}",
        f"  protocol: {protocol_users_of(settings)}",
    ]


def store_of(settings: Settings) -> str:
    if settings.remote:  # the address may contain more than a log should show
        return "a remote Durable Streams server"
    if settings.store == "memory://":
        return "in memory; a restart loses everything"
    return str(Path(settings.store.removeprefix("sqlite:///")).resolve())


def default_model() -> str:
    from durable_chat.models.anthropic.client import KEY_VARIABLE, MODEL_DEFAULT

    key = os.environ.get(KEY_VARIABLE, "").strip()
    return f"anthropic:{MODEL_DEFAULT}" if key else f"demo ({KEY_VARIABLE} is not set)"


THIS_MACHINE = "this machine only, not through a proxy"


def readers_of(settings: Settings) -> str:
    if settings.token_secret is not None:
        return "whoever has a token for the session may read and write"
    if settings.open:
        return "EVERYBODY who reaches this address may read and write every session (--open)"
    if settings.secret is not None and not settings.remote:
        return f"{THIS_MACHINE}, or whoever sends DS_SECRET"
    return f"{THIS_MACHINE}. To serve others, set DURABLE_CHAT_TOKEN_SECRET or DS_SECRET"


def protocol_users_of(settings: Settings) -> str:
    if settings.remote:
        return "not served: ask the remote server"
    return THIS_MACHINE if settings.secret is None else "whoever sends DS_SECRET"


def unguarded_notice(settings: Settings) -> str | None:
    """Return who is served by an embedded chat that has no `authorize`, or None if a secret guards it."""
    if settings.token_secret is not None:
        return None
    if settings.open:
        return (
            "Nothing in durable-chat guards this chat (open=True): everybody whom the application lets through may read "
            "and write every session."
        )
    if settings.secret is not None and not settings.remote:
        return None
    return (
        f"Nothing guards this chat, so it serves {THIS_MACHINE}. To serve others, pass authorize= to DurableChat, set "
        "DURABLE_CHAT_TOKEN_SECRET, or pass open=True if the application checks every request itself."
    )
