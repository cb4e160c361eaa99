"""The table of clients and cases: nothing in it is missing or contradicts itself."""

from __future__ import annotations

import pytest

from tests.interop import cells


def test_every_cell_has_a_test_or_a_reason() -> None:
    """Each client is tested in each case, or cells.py says why not; not both."""
    found = cells.collect()
    assert cells.gaps(found) == []
    assert [cell for cell in cells.REASONS if found.get(cell)] == []
    assert {cell for cell in cells.REASONS if cell[0] not in cells.CLIENTS or cell[1] not in cells.CASES} == set()


@pytest.mark.parametrize("arguments", [("nobody", "send"), ("fetch", "nothing")])
def test_a_wrong_name_is_refused(arguments: tuple[str, str]) -> None:
    """A marker with a name that is not in the tables fails the collection."""
    with pytest.raises(ValueError, match="there is no"):
        list(cells.cells_of(pytest.mark.cell(*arguments).mark))
