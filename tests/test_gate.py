"""The run of the tests as a whole: what it does about tests that were left out, and about warnings."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.servers import ROOT

EXAMPLE = """
import warnings
import pytest

def test_runs() -> None:
    pass

def test_needs_a_tool() -> None:
    pytest.skip("needs a tool: run get-the-tool")

def test_warns() -> None:
    warnings.warn("old", DeprecationWarning)
"""


@pytest.fixture
def example(tmp_path: Path) -> Path:
    path = tmp_path / "test_example.py"
    path.write_text(EXAMPLE)
    return path


def run_tests(*args: str | Path) -> tuple[int, list[str]]:
    options = ["-p", "tests.conftest", "-p", "no:cacheprovider", "-c", "pyproject.toml", f"--rootdir={ROOT}"]
    command = [sys.executable, "-m", "pytest", *options, *map(str, args)]
    done = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout.splitlines()


# How a run may be told to go about it: in one process or in several.
WAYS = pytest.mark.parametrize("processes", ["0", "2"])


@WAYS
def test_skips_are_named(example: Path, processes: str) -> None:
    """A test left out is listed by name with what would enable it, and the last line counts it."""
    code, output = run_tests(example, "-k", "not warns", "-n", processes)
    assert code == 0
    assert any(line.endswith("::test_needs_a_tool: needs a tool: run get-the-tool") for line in output)
    assert "1 passed, 1 skipped" in output[-1]


@WAYS
def test_skips_fail_the_gate(example: Path, processes: str) -> None:
    """With --no-skips a run that left something out fails, though each test that ran has passed."""
    code, output = run_tests(example, "-k", "not warns", "--no-skips", "-n", processes)
    assert code == 1
    assert "1 passed, 1 skipped" in output[-1]
    assert run_tests(example, "-k", "runs", "--no-skips", "-n", processes)[0] == 0


@WAYS
def test_warnings_are_errors(example: Path, processes: str) -> None:
    """A warning fails the test it comes up in."""
    code, output = run_tests(example, "-k", "warns", "-n", processes)
    assert code == 1
    assert "1 failed" in output[-1]
