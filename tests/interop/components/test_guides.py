"""The guides show the code that the pages of these tests run."""

from __future__ import annotations

import pytest

from tests.interop.components.conftest import HERE
from tests.servers import ROOT


@pytest.mark.parametrize("module", ["state.js", "history.js", "agent.js"])
def test_snippets(module: str) -> None:
    """A snippet that a reader copies is one that was run."""
    shown = (ROOT / "docs" / "guides" / "assistant-ui.md").read_text()
    assert (HERE / "src" / module).read_text().strip() in shown
