"""
Positions inside an append, for a remote server whose offsets are only at the ends of appends.

`<offset>~<k>` means k messages past the offset. Only this server issues and accepts them.
"""

from __future__ import annotations

MARK = "~"

MESSAGES_MAX_DIGITS = 9
"""A number with more digits is not a valid position: no remote server sends a part that long."""


def past(offset: str, messages: int) -> str:
    """The position `messages` messages past `offset`, which may itself be inside an append."""
    base, before = split_inside(offset) or (offset, 0)
    return f"{base}{MARK}{before + messages}" if before + messages else base


def split_inside(offset: str) -> tuple[str, int] | None:
    """
    The remote server's own offset and the number of messages past it, or None if the position is not inside an append.
    """
    base, mark, count = offset.rpartition(MARK)
    if not mark or not base or not (count.isascii() and count.isdigit()) or len(count) > MESSAGES_MAX_DIGITS:
        return None
    return base, int(count)
