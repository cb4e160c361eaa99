"""Programs of Node.js that answer each line with a line, both JSON."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.servers import INTEROP, clean_environment, node_env

EXIT_MAX_S = 10
"""How long such a program may take to end after its input has."""


class NodeLines:
    """A running program."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def ask(self, value: Any) -> Any:
        """Send a value, and return the answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(value) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, "Node.js ended"
        return json.loads(line)


@contextmanager
def node_lines(*command: str) -> Iterator[NodeLines]:
    """Run a program of tests/interop with its arguments until the end of the context. It must end without an error."""
    process = subprocess.Popen(
        [node_env(), *command],
        cwd=INTEROP,
        env=clean_environment({}),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield NodeLines(process)
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(EXIT_MAX_S) == 0
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
