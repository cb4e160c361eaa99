"""Byte ranges, by RFC 9110 section 14."""

from __future__ import annotations

import pytest

from durable_chat.http.ranges import Unsatisfiable, parse_range


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("bytes=0-0", (0, 1)),
        ("bytes=0-99", (0, 10)),
        ("bytes=3-", (3, 10)),
        ("bytes=9-9", (9, 10)),
        ("bytes=-3", (7, 10)),
        ("bytes=-99", (0, 10)),
        ("bytes= 1-2 ", (1, 3)),
        (None, None),
        ("", None),
        ("bytes=-", None),
        ("bytes=2-1", None),
        ("bytes=0-1,3-4", None),
        ("bytes=a-b", None),
        ("items=0-1", None),
    ],
)
def test_range(value: str | None, expected: tuple[int, int] | None) -> None:
    """A single range is used. Several ranges and invalid ones are ignored."""
    assert parse_range(value, 10) == expected


@pytest.mark.parametrize("value", ["bytes=10-", "bytes=10-11", "bytes=-0", f"bytes={'9' * 18}-"])
def test_unsatisfiable(value: str) -> None:
    """A range that begins past the end is refused."""
    with pytest.raises(Unsatisfiable):
        parse_range(value, 10)
    with pytest.raises(Unsatisfiable):
        parse_range("bytes=-5", 0)
