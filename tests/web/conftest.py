"""Fixtures: tabs of the page, and a server whose answers last as long as a test needs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from tests.servers import Process, start_app
from tests.web.tabs import UNFINISHED, Tabs


@pytest.fixture
def tabs(chromium: Browser) -> Iterator[Tabs]:
    """Open tabs, close them at the end, and fail the test if a page logged a problem."""
    opened = Tabs(chromium)
    yield opened
    opened.close()
    assert opened.problems == []


@pytest.fixture
def unfinished(tmp_path: Path, processes: list[Process]) -> Process:
    """Start a server whose answers grow until the test calls `finish`."""
    return start_app(tmp_path / "unfinished", UNFINISHED, processes)
