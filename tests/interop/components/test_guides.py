"""The guides contain the code that these tests run."""

from __future__ import annotations

import pytest

from tests.interop.components.conftest import HERE
from tests.servers import ROOT


@pytest.mark.parametrize("module", ["state.js", "history.js", "agent.js", "back.js"])
def test_snippets(module: str) -> None:
    """Every snippet of the guide is the source of a tested module."""
    shown = (ROOT / "docs" / "guides" / "assistant-ui.md").read_text()
    assert (HERE / "src" / module).read_text().strip() in shown
