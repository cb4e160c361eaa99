"""
Any log, valid or damaged, folds to the same messages here and in TanStack AI's own client, and our writer's output
does so in all of its versions. `scripts/fold --examples 10000` runs longer. Failing logs are kept in seeds/ and
tested each time.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings

from tests.transcripts import wild_logs
from tests.transcripts.folding import OLDER, Folder, compare, final, node_folder
from tests.transcripts.wild_logs import Log

SEEDS = sorted((Path(__file__).parent / "seeds").glob("*.json"))
EXAMPLES = int(os.environ.get("FOLD_EXAMPLES", "150"))

many = settings(
    max_examples=EXAMPLES,
    report_multiple_bugs=False,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)


@pytest.fixture(scope="module")
def folder() -> Iterator[Folder]:
    with node_folder() as made:
        yield made


@pytest.fixture(scope="module", params=OLDER)
def older(request: pytest.FixtureRequest) -> Iterator[Folder]:
    with node_folder(request.param) as made:
        yield made


@given(log=wild_logs.written_logs())
@many
def test_what_the_writer_writes(folder: Folder, log: Log) -> None:
    compare(folder, log)


@given(log=wild_logs.damaged_logs())
@many
def test_damaged_logs(folder: Folder, log: Log) -> None:
    compare(folder, log)


@given(log=wild_logs.loose_logs())
@many
def test_loose_chunks(folder: Folder, log: Log) -> None:
    compare(folder, log)


@given(log=wild_logs.written_logs(own_calls=True))
@many
def test_every_version_folds_alike(folder: Folder, older: Folder, log: Log) -> None:
    """
    For the writer's output, the newest client and an older one end with the same messages. The exception is text
    before a call's arguments have arrived, which 0.44 takes for their end.
    """
    assume(not wild_logs.speaks_amid_arguments(log))
    assert final(older, log) == final(folder, log)


@pytest.mark.parametrize("path", SEEDS, ids=lambda path: path.stem)
def test_seeds(folder: Folder, path: Path) -> None:
    """Logs that once folded differently fold alike."""
    seed: dict[str, Any] = json.loads(path.read_text())
    compare(folder, seed["log"])
