"""Every kind of store that a chat may be on."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import ServeNpm


@pytest.fixture(params=["memory", "sqlite", "remote"])
def any_store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty store: in memory, in a file, and on a remote server."""
    if request.param == "remote":
        serve_npm: ServeNpm = request.getfixturevalue("serve_npm")
        return f"{serve_npm(durable=False).url}/v1/stream/chats"
    return "memory://" if request.param == "memory" else f"sqlite:///{tmp_path}/chat.db"
