"""Byte ranges of requests (RFC 9110 section 14), without HTTP."""

from __future__ import annotations

import re

_RANGE = re.compile(r"bytes=[ \t]*([0-9]{0,18})-([0-9]{0,18})[ \t]*")


class Unsatisfiable(Exception):
    """The range begins after the end of the content: status 416."""


def parse_range(value: str | None, size: int) -> tuple[int, int] | None:
    """
    Return the first byte and the one after the last. Return None if the whole content should be sent: for no range, an
    invalid one, or several, which a server may ignore (section 14.2). Raises Unsatisfiable.
    """
    match = _RANGE.fullmatch(value) if value is not None else None
    if match is None:
        return None
    first, last = match.groups()
    if not first:
        return _suffix(last, size)
    start, stop = int(first), int(last) + 1 if last else size
    if stop <= start and last:
        return None
    if start >= size:
        raise Unsatisfiable
    return start, min(stop, size)


def _suffix(last: str, size: int) -> tuple[int, int] | None:
    """Return the range of the last bytes, whose number is `last`."""
    if not last:
        return None
    if int(last) == 0 or size == 0:
        raise Unsatisfiable
    return max(size - int(last), 0), size
