"""Fixtures of the stock client, in every version."""

from __future__ import annotations

import pytest

from tests.interop.playing import CLIENTS


@pytest.fixture(params=CLIENTS)
def client(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name
