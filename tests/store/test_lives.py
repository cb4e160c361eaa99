"""
The store against plain lists, a short form of `scripts/model`: many streams, crashes, and thresholds of all kinds.
"""

from __future__ import annotations

import pytest

from tests.store.model import run

OPERATIONS = 2_500
LIFE_BATCHES = 8


@pytest.mark.parametrize("store", ["sqlite", "memory"])
def test_the_streams_are_the_lists(store: str) -> None:
    """Each stream equals its list, whatever the operations, their order and the moment of a crash."""
    model = run(OPERATIONS, 20_261_127, store, LIFE_BATCHES)
    assert model.operations >= OPERATIONS
