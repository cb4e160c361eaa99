"""
Positions inside an append, for a remote that has offsets at the ends of appends only: `<offset>~<k>` is k messages past
the offset. Only this server gives and takes them.
"""

from __future__ import annotations

MARK = "~"

MESSAGES_MAX_DIGITS = 9
"""A position further inside than this many digits say is none: no remote gives a part that long."""


def past(offset: str, messages: int) -> str:
    """The position so many messages past another, which may be inside an append itself."""
    base, before = split_inside(offset) or (offset, 0)
    return f"{base}{MARK}{before + messages}" if before + messages else base


def split_inside(offset: str) -> tuple[str, int] | None:
    """The remote's own offset and how many messages past it; None where the position is not inside an append."""
    base, mark, count = offset.rpartition(MARK)
    if not mark or not base or not (count.isascii() and count.isdigit()) or len(count) > MESSAGES_MAX_DIGITS:
        return None
    return base, int(count)
