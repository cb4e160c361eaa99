"""
The kinds of values that settings accept: how each is read from text, and whether a value fits.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from durable_chat.config.addresses import is_remote, origin_of, split_url

# A wait of more than a day is probably given in the wrong unit, and no proxy would keep the connection so long.
WAIT_MAX_S = 86_400.0
# HS256 requires keys of at least 32 bytes (RFC 7518 section 3.2). Anybody who holds a token can guess a shorter key
# offline, at full speed and unnoticed.
TOKEN_SECRET_CHARS_MIN = 32
# The length of one text on the page: an introduction is a sentence or two.
TEXT_CHARS_MAX = 500
# Users do not read more suggestions than this.
SUGGESTIONS_MAX = 8


@dataclass(frozen=True, slots=True)
class Kind:
    """
    The values a setting accepts. `expects` completes the sentence "X must be …". `parse` raises ValueError for any
    other text.
    """

    expects: str
    parse: Callable[[str], Any]
    fits: Callable[[Any], bool]


def text(expects: str, fits: Callable[[str], bool]) -> Kind:
    return Kind(expects, str, lambda value: isinstance(value, str) and fits(value))


def whole(low: int, high: int) -> Kind:
    def fits(value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high

    return Kind(f"a whole number from {low} to {high}", int, fits)


def seconds(low: float) -> Kind:
    def fits(value: Any) -> bool:
        return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= WAIT_MAX_S

    return Kind(f"a number of seconds from {low:g} to {WAIT_MAX_S:g}", float, fits)


def or_off(kind: Kind) -> Kind:
    """Accept the same values, or `off`, which becomes None."""

    def parse(text: str) -> Any:
        return None if text == "off" else kind.parse(text)

    return Kind(f"{kind.expects}, or off", parse, lambda value: value is None or kind.fits(value))


def or_none(kind: Kind) -> Kind:
    return Kind(kind.expects, kind.parse, lambda value: value is None or kind.fits(value))


def _is_store(url: str) -> bool:
    if is_remote(url):
        return _is_upstream(url)
    return url == "memory://" or re.fullmatch(r"sqlite:///[^\x00?#]*[^\x00?#/]", url) is not None


def _is_upstream(url: str) -> bool:
    # A user name or password in the address would appear in logs. The secret has its own setting.
    parts = split_url(url)
    return parts is not None and "@" not in parts.netloc and not parts.query and not parts.fragment


def _is_secret(text: str) -> bool:
    # The secret is sent in a header, where spaces and non-ASCII characters may change on the way.
    return re.fullmatch(r"[\x21-\x7e]+", text) is not None


def _parse_origins(text: str) -> tuple[str, ...]:
    origins = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        origin = "*" if part == "*" else origin_of(part)
        if origin is None:
            raise ValueError(part)
        origins.append(origin)
    return tuple(origins)


def _are_origins(value: Any) -> bool:
    return isinstance(value, tuple) and all(origin == "*" or origin_of(origin) == origin for origin in value)


def _parse_suggestions(text: str) -> tuple[str, ...]:
    return tuple(filter(None, (part.strip() for part in text.split("|"))))


def _is_shown(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= TEXT_CHARS_MAX and value.isprintable()


def _are_suggestions(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) <= SUGGESTIONS_MAX and all(map(_is_shown, value))


STORE = text("memory://, sqlite:///path or the https:// address of a Durable Streams server", _is_store)
SERVICE_ID = or_none(text("letters, digits and . _ ~ -", lambda s: re.fullmatch(r"[\w.~-]+", s, re.ASCII) is not None))
UPSTREAM = or_none(text("an http:// or https:// address without a user name or query", _is_upstream))
SECRET = or_none(text("visible ASCII characters without spaces", _is_secret))
TOKEN_SECRET = or_none(
    text(
        f"at least {TOKEN_SECRET_CHARS_MIN} visible ASCII characters without spaces, chosen at random",
        lambda s: len(s) >= TOKEN_SECRET_CHARS_MIN and _is_secret(s),
    )
)
FILE = or_none(text("the path of a file", lambda s: bool(s) and "\0" not in s))
ORIGINS = Kind("origins like https://app.example, separated by commas", _parse_origins, _are_origins)
TITLE = Kind(f"one line of at most {TEXT_CHARS_MAX} characters", str, _is_shown)
SUGGESTIONS = or_none(Kind(f"at most {SUGGESTIONS_MAX} texts, separated by |", _parse_suggestions, _are_suggestions))
HOST = text("a host name or address", lambda s: re.fullmatch(r"[\w.:%-]+", s, re.ASCII) is not None)
MODEL = or_none(text("a model's name", lambda s: s.isprintable() and bool(s)))
TURN_MODES = ("queue", "steer", "refuse", "interrupt")
"""What a turn that arrives during an answer may do."""
TURNS = text("queue, steer, refuse or interrupt", lambda s: s in TURN_MODES)
AFTER_CRASH = text("end, retry or continue", lambda s: s in ("end", "retry", "continue"))
HTTP = text("own or uvicorn", lambda s: s in ("own", "uvicorn"))
ON_OR_OFF = text("on or off", lambda s: s in ("on", "off"))
FLAG = Kind("true or false", str, lambda value: isinstance(value, bool))
