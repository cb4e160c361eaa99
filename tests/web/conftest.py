"""A fixture for tabs of the page."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from tests.web.tabs import Tabs


@pytest.fixture
def tabs(chromium: Browser) -> Iterator[Tabs]:
    """Open tabs, close them at the end, and fail the test if a page logged a problem."""
    opened = Tabs(chromium)
    yield opened
    opened.close()
    assert opened.problems == []
