"""A small soak: sessions answering while the server is killed under them."""

from __future__ import annotations

import subprocess
import sys

from tests.servers import ROOT, clean_environment

SOAK_MAX_S = 120.0


def test_soak() -> None:
    """After each kill every run has its one end, and at the end all readers have one transcript."""
    command = [sys.executable, "-m", "tests.soak", "--quick"]
    done = subprocess.run(
        command, cwd=ROOT, env=clean_environment({}), capture_output=True, text=True, timeout=SOAK_MAX_S, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "every reader agrees" in done.stdout
