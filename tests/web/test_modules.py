"""The page's modules without a browser: each file of tests beside this one, in Node.js."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.servers import run_node

FILES = sorted(Path(__file__).parent.glob("*.test.mjs"))
# They take seconds; the rest is for a busy machine.
RUN_MAX_S = 240.0


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_module(path: Path) -> None:
    """Everything in the file holds."""
    run_node(["--test", path], timeout_s=RUN_MAX_S)
