"""
Reproduce JavaScript's handling of text, numbers and unfinished JSON, so that transcripts match those in a browser.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from durable_chat.transcripts.chunks import InvalidChunk, decode_json

# The characters that String.prototype.trim removes; they differ from those of str.strip.
_SPACE = "\t\n\v\f\r \u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000\ufeff"
_INDEX = re.compile(r"0|[1-9][0-9]{0,9}")
_NOT_SPACE = re.compile(f"[^{_SPACE}]")

# Deeper JSON does not occur in a chat and would exhaust Python's stack.
NESTING_MAX = 100


class _Unfinished(Exception):
    """The text ends or is invalid before a value is complete."""


def is_blank(text: str) -> bool:
    """Whether `text.trim() === ''`."""
    return _NOT_SPACE.search(text) is None


def stringify(value: Any) -> str:
    """Return `JSON.stringify(value)` for a JSON value; empty when it is nested too deeply for Python."""
    try:
        return _stringify(value)
    except RecursionError:
        return ""


def _stringify(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, int | float):
        return _number(value)
    if isinstance(value, Mapping):
        items = ((_stringify(str(key)), _stringify(value[key])) for key in _key_order(value))
        return "{" + ",".join(f"{key}:{item}" for key, item in items) + "}"
    return "[" + ",".join(map(_stringify, value)) + "]"


def _key_order(value: Mapping[str, Any]) -> list[str]:
    """Return the keys in JavaScript's order: array indexes first, in numeric order."""
    indexes = {key for key in value if _INDEX.fullmatch(key) and int(key) < 2**32 - 1}
    return sorted(indexes, key=int) + [key for key in value if key not in indexes]


def _number(value: float) -> str:
    if isinstance(value, int) or (value.is_integer() and abs(value) < 1e21):
        return str(int(value))
    if value != value or value in (float("inf"), float("-inf")):
        return "null"
    text = repr(value)
    mantissa, e, exponent = text.partition("e")
    if not e:
        return text
    if -7 < int(exponent) < 0:
        return f"{value:.{len(mantissa.replace('-', '').replace('.', '')) - 1 - int(exponent)}f}"
    return f"{mantissa}e{int(exponent):+d}"


def parse(text: str) -> tuple[bool, Any]:
    """Parse as `JSON.parse` does. Return whether the text is JSON of at most NESTING_MAX levels, and the value."""
    try:
        return True, decode_json(text, NESTING_MAX)
    except InvalidChunk:
        return False, None


def parse_partial(text: str) -> Any:
    """
    Return the value of JSON that may end anywhere, as npm's `partial-json` reads it. None if there is no value yet, or
    if the text is not JSON.
    """
    if is_blank(text):
        return None
    try:
        return _Partial(text.strip()).value(0)
    except _Unfinished:
        return None


# Values that JSON cannot represent become null there.
_WORDS = (
    *(("null", None), ("true", True), ("false", False)),
    *(("Infinity", math.inf), ("-Infinity", -math.inf), ("NaN", math.nan)),
)
_WORD_CHARS_MAX = 9


class _Partial:
    """A reader of unfinished JSON. State: the position in the text."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def value(self, depth: int) -> Any:
        self._skip()
        head = self.text[self.at : self.at + 1]
        if not head or depth > NESTING_MAX:
            raise _Unfinished
        if head == '"':
            return self._string()
        if head == "{":
            return self._object(depth)
        if head == "[":
            return self._array(depth)
        left = self.text[self.at : self.at + _WORD_CHARS_MAX]
        for word, value in _WORDS:
            if left.startswith(word) or (word.startswith(left) and left != "-"):
                self.at += len(word)
                return value
        return self._number()

    def _object(self, depth: int) -> dict[str, Any]:
        self.at += 1
        made: dict[str, Any] = {}
        try:
            self._skip()
            while self.text[self.at : self.at + 1] != "}":
                self._skip()
                if self.at >= len(self.text):
                    return made
                key = self._string()
                self._skip()
                self.at += 1
                made[key] = self.value(depth + 1)
                self._skip()
                if self.text[self.at : self.at + 1] == ",":
                    self.at += 1
        except _Unfinished:
            return made
        self.at += 1
        return made

    def _array(self, depth: int) -> list[Any]:
        self.at += 1
        made: list[Any] = []
        try:
            while self.text[self.at : self.at + 1] != "]":
                made.append(self.value(depth + 1))
                self._skip()
                if self.text[self.at : self.at + 1] == ",":
                    self.at += 1
        except _Unfinished:
            return made
        self.at += 1
        return made

    def _string(self) -> str:
        start = self.at
        escaped = False
        self.at += 1
        while self.at < len(self.text) and (escaped or self.text[self.at] != '"'):
            escaped = not escaped and self.text[self.at] == "\\"
            self.at += 1
        if self.at < len(self.text):
            self.at += 1
            return str(self._whole(self.text[start : self.at]))
        known, value = parse(self.text[start : self.at - escaped] + '"')
        if known:
            return str(value)
        cut = self.text.rfind("\\", start)
        return str(self._whole(self.text[start:cut] + '"' if cut > 0 else ""))

    def _number(self) -> Any:
        """
        Read a number up to the next delimiter; at the start of the text, read all of it. An incomplete exponent is
        dropped.
        """
        start = self.at
        self.at = self._number_end() if start else len(self.text)
        known, value = parse(self.text[start : self.at])
        if known:
            return value
        first, last = sorted((start, max(self.text.rfind("e"), 0)))
        return self._whole(self.text[first:last])

    def _number_end(self) -> int:
        return next((at for at in range(self.at, len(self.text)) if self.text[at] in ",]}"), len(self.text))

    def _whole(self, literal: str) -> Any:
        known, value = parse(literal)
        if not known:
            raise _Unfinished
        return value

    def _skip(self) -> None:
        while self.text[self.at : self.at + 1] in (" ", "\n", "\r", "\t"):
            self.at += 1
