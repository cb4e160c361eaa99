"""The matrix for the summary of a test run, whichever process ran each cell."""

from __future__ import annotations

import pytest

from tests.interop.matrix import Cell, table

CELL = "cell of the matrix"
"""The property of a test that says which cell it was, and what came of it: it travels with the test's report."""


def cell_property(client: str, opening: str, name: str, cell: Cell) -> list[object]:
    return [client, opening, name, cell.readers, list(cell.problems)]


def matrix_lines(reporter: pytest.TerminalReporter) -> list[str]:
    """Return the table of the cells that this run has played, or nothing if it played none."""
    reports = (report for outcome in ("passed", "failed") for report in reporter.stats.get(outcome, []))
    told = (value for report in reports for name, value in getattr(report, "user_properties", ()) if name == CELL)
    cells = {
        (client, opening, name): Cell(readers, tuple(problems)) for client, opening, name, readers, problems in told
    }
    return list(table(cells)) if cells else []
