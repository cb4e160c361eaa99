"""Examples as the tests start them."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import pytest

from tests.examples.starting import Example
from tests.servers import Process


class StartExample(Protocol):
    def __call__(self, name: str, **environment: str) -> Example: ...


@pytest.fixture
def start(tmp_path: Path, processes: list[Process]) -> StartExample:
    """
    Starts examples, ready on return. The demo model is quick, and yet there is a middle of its answers; what a model
    yields is a chunk of its own, so that pieces can be counted.
    """
    settings = {"DURABLE_CHAT_DEMO_DELAY_MS": "5", "DURABLE_CHAT_COALESCE": "off"}

    def start(name: str, **environment: str) -> Example:
        example = Example(name, tmp_path / name, {**settings, **environment})
        processes.append(example)
        example.start()
        return example

    return start
