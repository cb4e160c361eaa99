"""Rate limits of callers, with the test's own clock."""

from __future__ import annotations

import pytest

from durable_chat.api.rate_limits import MINUTE_S, Rates, site_of
from durable_chat.errors import TooManyRequests


def refused(rates: Rates, caller: str, now_s: float) -> int:
    """Return the seconds to wait from a refusal."""
    with pytest.raises(TooManyRequests) as told:
        rates.take(caller, now_s)
    assert told.value.code == "too_many_turns"
    return int(told.value.headers["Retry-After"])


@pytest.mark.parametrize("per_minute", [1, 2, 3, 7, 60, 1000])
@pytest.mark.parametrize("start_s", [0.0, 12_345.678])
def test_a_minute(per_minute: int, start_s: float) -> None:
    """
    A caller may send the whole minute's turns at once, not one more, and one more after the wait that the refusal
    names.
    """
    rates = Rates(per_minute)
    for _ in range(per_minute):
        rates.take("a", start_s)
    wait_s = refused(rates, "a", start_s)
    assert 1 <= wait_s <= MINUTE_S / per_minute + 1
    rates.take("a", start_s + wait_s)


def test_refusals_do_not_count() -> None:
    """Refused requests do not lengthen the wait."""
    rates = Rates(1)
    rates.take("a", 0)
    assert {refused(rates, "a", 0) for _ in range(10)} == {60}
    rates.take("a", 60)


def test_over_time() -> None:
    """However a caller spreads its requests over ten minutes, it gets ten times the rate plus one burst."""
    rates = Rates(6)
    taken = 0
    for now_s in range(600):
        try:
            rates.take("a", now_s)
            taken += 1
        except TooManyRequests:
            continue
    assert taken == 60 + 5


def test_callers_are_apart() -> None:
    """Callers have separate limits."""
    rates = Rates(1)
    rates.take("a", 0)
    rates.take("b", 0)
    refused(rates, "a", 1)


def test_memory_is_bounded() -> None:
    """The callers that were quiet longest are forgotten first, never one that was just allowed."""
    rates = Rates(1, callers_max=10)
    for number in range(100):
        rates.take(str(number), 0)
    assert len(rates) == 10
    refused(rates, "99", 1)
    rates.take("0", 1)
    rates.take("later", 1000)
    assert len(rates) == 1


@pytest.mark.parametrize(
    ("peer", "site"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::9", "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("", ""),
        ("/run/chat.sock", "/run/chat.sock"),
    ],
)
def test_site(peer: str, site: str) -> None:
    """All addresses of one network count as one caller."""
    assert site_of(peer) == site
