"""Tabs of the page, for every test of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, expect

from tests.web.tabs import SHOWN_MAX_MS, Tabs

expect.set_options(timeout=SHOWN_MAX_MS)


@pytest.fixture
def tabs(chromium: Browser) -> Iterator[Tabs]:
    """Opens tabs, closes them, and fails the test where a page complained about anything."""
    opened = Tabs(chromium)
    yield opened
    opened.close()
    assert opened.problems == []
