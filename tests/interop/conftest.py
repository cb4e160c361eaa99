"""The stock client in every version, and the matrix, shown at the end of a run that has played it."""

from __future__ import annotations

import pytest

from tests.interop.matrix import Cell, table
from tests.interop.playing import CLIENTS

CELLS = pytest.StashKey[dict[tuple[str, str, str], Cell]]()


@pytest.fixture(params=CLIENTS)
def client(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def pytest_configure(config: pytest.Config) -> None:
    config.stash[CELLS] = {}


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    cells = terminalreporter.config.stash[CELLS]
    if cells:
        terminalreporter.section("one story: client versions and scenarios")
        for line in table(cells):
            terminalreporter.line(line)
