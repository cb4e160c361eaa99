"""
The rate limit for turns: one bucket for each caller, refilled evenly over a minute. The current time is an argument.
"""

from __future__ import annotations

import ipaddress
import math
from collections import OrderedDict

from durable_chat.errors import TooManyRequests

MINUTE_S = 60.0

CALLERS_MAX = 10_000
"""The maximum number of callers remembered, about 2 MB. Beyond it, the least recently active caller is forgotten."""

IPV6_SITE_BITS = 64
"""The size of the IPv6 network that one household or host has to itself, in bits (RFC 6177)."""


class Rates:
    """
    The turns of each caller: up to `per_minute` at once, and as many in each minute (generic cell rate algorithm).
    Mutable state: `_full_s`, the time when each caller's bucket is full again, most recent caller last.
    """

    def __init__(self, per_minute: int, callers_max: int = CALLERS_MAX) -> None:
        self._turn_s = MINUTE_S / per_minute
        self._callers_max = callers_max
        self._full_s: OrderedDict[str, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._full_s)

    def take(self, caller: str, now_s: float) -> None:
        """Count a turn. Raises TooManyRequests, and does not count the refused turn."""
        full_s = max(self._full_s.get(caller, now_s), now_s) + self._turn_s
        wait_s = full_s - now_s - MINUTE_S
        # The sum of many parts of a minute differs from a minute by rounding errors.
        if wait_s > self._turn_s / 1000:
            raise TooManyRequests(
                "Too many messages in a short time. Try again later.",
                code="too_many_turns",
                retry_after_s=math.ceil(wait_s),
            )
        self._full_s[caller] = full_s
        self._full_s.move_to_end(caller)
        if len(self._full_s) > self._callers_max:
            self._forget(now_s)

    def _forget(self, now_s: float) -> None:
        """Forget the oldest caller, and the next ones whose bucket is full again: they are the same as new callers."""
        self._full_s.popitem(last=False)
        while self._full_s and next(iter(self._full_s.values())) <= now_s:
            self._full_s.popitem(last=False)


def site_of(peer: str) -> str:
    """Return who is behind an address: for IPv6 its network, since a caller can use any address in it."""
    try:
        address = ipaddress.ip_address(peer)
    except ValueError:
        return peer
    if not isinstance(address, ipaddress.IPv6Address):
        return peer
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((int(address), IPV6_SITE_BITS), strict=False))
