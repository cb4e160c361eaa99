"""The stock client in every version, and the matrix, shown at the end of a run that has played it."""

from __future__ import annotations

import pytest

from tests.interop.matrix import Cell, table
from tests.interop.playing import CLIENTS

CELL = "cell of the matrix"
"""The property of a test that tells which cell it was, and what came of it: it travels with the test's report."""


@pytest.fixture(params=CLIENTS)
def client(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def cells_of(reporter: pytest.TerminalReporter) -> dict[tuple[str, str, str], Cell]:
    reports = (report for outcome in ("passed", "failed") for report in reporter.stats.get(outcome, []))
    told = (value for report in reports for name, value in getattr(report, "user_properties", ()) if name == CELL)
    return {
        (client, opening, name): Cell(readers, tuple(problems)) for client, opening, name, readers, problems in told
    }


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    cells = cells_of(terminalreporter)
    if cells:
        terminalreporter.section("one story: client versions and scenarios")
        for line in table(cells):
            terminalreporter.line(line)
