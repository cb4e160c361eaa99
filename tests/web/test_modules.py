"""The page's modules without a browser: runs each `.test.mjs` file of this folder in Node.js."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.servers import run_node

FILES = sorted(Path(__file__).parent.glob("*.test.mjs"))
# The files take seconds. The rest is for a busy machine.
RUN_MAX_S = 240.0


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_module(path: Path) -> None:
    """All tests in the file pass."""
    run_node(["--test", path], timeout_s=RUN_MAX_S)
