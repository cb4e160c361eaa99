"""
The table client x case: which frontends are tested in which situation, and why a cell has no test.

A test fills cells by its marker: `@pytest.mark.cell("ai-sdk-7", "stop")`. It may name several clients, as a tuple, and several cases:
`@pytest.mark.cell(("ai-sdk-6", "ai-sdk-7"), "send", "stream")`. A parametrized test may give each parameter a marker of its own:
`pytest.param("ai-sdk-7", marks=pytest.mark.cell("ai-sdk-7", "stop"))`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

import pytest

CLIENTS = {
    "tanstack-durable": "TanStack AI `useChat`, `durableStreamConnection`",
    "tanstack-module": "TanStack AI `useChat`, `durable(…)` of `/durable-chat.js`",
    "tanstack-sse": "TanStack AI `useChat`, `fetchServerSentEvents`",
    "tanstack-ndjson": "TanStack AI `useChat`, `fetchHttpStream`",
    "ag-ui-1.0": "AG-UI `HttpAgent` 1.0",
    "ag-ui-0.0": "AG-UI `HttpAgent` 0.0.59",
    "ai-sdk-7": "AI SDK 7 `useChat`, `DefaultChatTransport`",
    "ai-sdk-6": "AI SDK 6 `useChat`, `DefaultChatTransport`",
    "ai-sdk-7-durable": "AI SDK 7 `useChat`, `createDurableChatTransport`",
    "ai-sdk-6-durable": "AI SDK 6 `useChat`, `createDurableChatTransport`",
    "copilotkit": "CopilotKit",
    "assistant-ui": "assistant-ui `useAgUiRuntime`",
    "assistant-transport": "assistant-ui `useAssistantTransportRuntime`",
    "fetch": "plain `fetch`",
    "durable-streams": "`@durable-streams/client`",
}
"""The clients, by the name that a marker uses, and what the table calls them."""

CASES = {
    "send": "a message is answered",
    "stream": "the text arrives in pieces",
    "drop and resume": "a lost connection is resumed, each chunk exactly once",
    "second tab": "another tab shows the answer live",
    "stop": "the answer stops for everybody",
    "error": "a failed answer is reported",
    "tool": "a tool call and its result are shown",
    "approval": "a call waits for a person, who approves or denies it",
    "attachment": "a file of the user reaches the model",
    "reload midway": "a reload in the middle of an answer shows all of it",
}
"""The cases, by the name that a marker uses, and what holds."""

REASONS: dict[tuple[str, str], str] = {
    ("durable-streams", "send"): "The client reads and writes logs. A message is sent with `POST /api/chat`.",
    ("durable-streams", "stop"): "The client reads and writes logs. It has no notion of an answer.",
    ("durable-streams", "approval"): "The client reads and writes logs. It has no notion of an approval.",
    ("durable-streams", "attachment"): "The client reads and writes logs. It has no notion of a message's files.",
}
"""Why a cell has no test, by client and case."""

Cells = dict[tuple[str, str], list[str]]
"""The tests of each cell, by client and case: `tests/interop/test_module.py::test_stop`."""


def cells_of(marker: pytest.Mark) -> Iterator[tuple[str, str]]:
    """The cells that a marker fills. Raises ValueError for a name that is not in the tables above."""
    clients, *cases = marker.args
    for client in (clients,) if isinstance(clients, str) else clients:
        if client not in CLIENTS:
            raise ValueError(f"cell: there is no client {client!r} in tests/interop/cells.py")
        for case in cases:
            if case not in CASES:
                raise ValueError(f"cell: there is no case {case!r} in tests/interop/cells.py")
            yield client, case


class CellCollector:
    """A plugin of pytest that notes the cells of the tests that are collected. Mutable: `cells`."""

    def __init__(self) -> None:
        self.cells: Cells = defaultdict(list)

    def pytest_collection_modifyitems(self, items: Sequence[pytest.Item]) -> None:
        for item in items:
            name = item.nodeid.partition("[")[0]
            for cell in (cell for marker in item.iter_markers("cell") for cell in cells_of(marker)):
                if name not in self.cells[cell]:
                    self.cells[cell].append(name)
