"""Shows the matrix at the end of a run that has played it."""

from __future__ import annotations

import pytest

from tests.interop.matrix import Cell, table

CELLS = pytest.StashKey[dict[tuple[str, str, str], Cell]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[CELLS] = {}


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    cells = terminalreporter.config.stash[CELLS]
    if cells:
        terminalreporter.section("one story: client versions and scenarios")
        for line in table(cells):
            terminalreporter.line(line)
