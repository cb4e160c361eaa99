"""
How often a caller may send a turn: a bucket of turns for each, filled again evenly over a minute. Without a clock: the
time is an argument.
"""

from __future__ import annotations

import ipaddress
import math
from collections import OrderedDict

from durable_chat.errors import TooManyRequests

MINUTE_S = 60.0

CALLERS_MAX = 10_000
"""Callers remembered at once, about 2 MB. With more, the one that was quiet for longest begins anew."""

IPV6_SITE_BITS = 64
"""One household or host has that many bits of an address to itself (RFC 6177)."""


class Rates:
    """
    A caller may send `per_minute` turns at once, and as many over each minute (the generic cell rate algorithm).
    Mutable state: `_full_s`, when each caller's bucket is full again, those who sent last at the end.
    """

    def __init__(self, per_minute: int, callers_max: int = CALLERS_MAX) -> None:
        self._turn_s = MINUTE_S / per_minute
        self._callers_max = callers_max
        self._full_s: OrderedDict[str, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._full_s)

    def take(self, caller: str, now_s: float) -> None:
        """Raises TooManyRequests, and the refused turn does not count."""
        full_s = max(self._full_s.get(caller, now_s), now_s) + self._turn_s
        wait_s = full_s - now_s - MINUTE_S
        # The sum of many parts of a minute is a minute but for rounding.
        if wait_s > self._turn_s / 1000:
            raise TooManyRequests(
                "Too many messages in a short time.", code="too_many_turns", retry_after_s=math.ceil(wait_s)
            )
        self._full_s[caller] = full_s
        self._full_s.move_to_end(caller)
        if len(self._full_s) > self._callers_max:
            self._forget(now_s)

    def _forget(self, now_s: float) -> None:
        """Whose bucket is full again is as good as new; those at the front are the likeliest."""
        self._full_s.popitem(last=False)
        while self._full_s and next(iter(self._full_s.values())) <= now_s:
            self._full_s.popitem(last=False)


def site_of(peer: str) -> str:
    """Who is behind an address: of IPv6 its network, since a caller has as many addresses in it as it likes."""
    try:
        address = ipaddress.ip_address(peer)
    except ValueError:
        return peer
    if not isinstance(address, ipaddress.IPv6Address):
        return peer
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((int(address), IPV6_SITE_BITS), strict=False))
