"""Several lives of an application on one file: processes of it that tests kill and start again."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import ClassVar

from tests.servers import ROOT, Process


class Lives:
    """The processes of one application, which is `app`. They share a folder."""

    app: ClassVar[str]

    def __init__(self, folder: Path, processes: list[Process]) -> None:
        self.folder = folder
        self.processes = processes

    def start(self, **settings: str) -> Process:
        """Start a life, and wait until it is ready."""
        process = self.launch(**settings)
        process.wait_ready()
        return process

    def launch(self, **settings: str) -> Process:
        command = (sys.executable, "-m", "uvicorn", self.app, "--port", "{port}", "--log-level", "warning")
        process = Process(command, self.folder, {"PYTHONPATH": str(ROOT), **settings})
        process.ready_path = "/readyz"
        self.processes.append(process)
        process.start(wait=False)
        return process

    def lines(self, file: str) -> list[str]:
        """Return what the lives have written into a file so far."""
        path = self.folder / file
        return path.read_text().splitlines() if path.exists() else []
