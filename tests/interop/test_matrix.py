"""
The matrix of client versions and scenarios. In each cell, the sender, watching tabs, tabs that join during the turn
or later, and the server's snapshot have the same messages. The table is shown at the end of the run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.interop.matrix import OPENINGS, judge, play_all, scripted_app
from tests.interop.playing import CLIENTS, Facts
from tests.interop.reports import CELL, cell_property
from tests.interop.scenarios import SCENARIOS

Played = dict[str, Facts]


@pytest.fixture(scope="module", params=OPENINGS)
def opening(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def base(opening: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of one server for all clients."""
    with scripted_app(tmp_path_factory.mktemp(opening), opening) as app:
        yield app.url


@pytest.fixture(scope="module", params=CLIENTS)
def client(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def played(base: str, client: str, opening: str) -> Played:
    """All scenarios with one client, run concurrently in one process."""
    return play_all(base, client, opening)


@pytest.mark.parametrize("name", SCENARIOS)
def test_one_story(
    played: Played, name: str, client: str, opening: str, record_property: Callable[[str, object], None]
) -> None:
    """
    While the model waits, at the end of the turn and after one more turn, all readers have equal messages, and each
    got correct reports of when the session was generating and that the turn ended. When turns begin with echoes,
    stock clients that only watch do not get the latter.
    """
    cell = judge(SCENARIOS[name], played[name], client, opening)
    record_property(CELL, cell_property(client, opening, name, cell))
    assert not cell.problems, "\n".join(cell.problems)
