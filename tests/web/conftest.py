"""Tabs of the page, for every test of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from tests.web.tabs import Tabs


@pytest.fixture
def tabs(chromium: Browser) -> Iterator[Tabs]:
    """Opens tabs, closes them, and fails the test where a page complained about anything."""
    opened = Tabs(chromium)
    yield opened
    opened.close()
    assert opened.problems == []
