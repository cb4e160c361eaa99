"""The table of clients and cases: nothing in it is missing or contradicts itself."""

from __future__ import annotations

import pytest

from tests.interop import cells


@pytest.mark.parametrize("table", cells.TABLES.values(), ids=lambda table: table.marker)
def test_every_cell_has_a_test_or_a_reason(table: cells.Table) -> None:
    """Each client is tested in each case, or cells.py says why not; not both."""
    found = cells.collect(table)
    assert cells.gaps(found, table) == []
    assert [cell for cell in table.reasons if found.get(cell)] == []
    assert {cell for cell in table.reasons if cell[0] not in table.clients or cell[1] not in table.cases} == set()


@pytest.mark.parametrize("arguments", [("nobody", "send"), ("fetch", "nothing")])
def test_a_wrong_name_is_refused(arguments: tuple[str, str]) -> None:
    """A marker with a name that is not in the tables fails the collection."""
    with pytest.raises(ValueError, match="there is no"):
        list(cells.cells_of(pytest.mark.cell(*arguments).mark))
