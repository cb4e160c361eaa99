"""What a person reads of the examples: short, complete, and true."""

from __future__ import annotations

import ast
import json
import re
import tomllib
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import pytest

from tests.examples.starting import EXAMPLES, command_of, names
from tests.servers import INTEROP, ROOT

README_LINES_MAX = 15
APP_LINES_MAX = 50
"""Without empty lines and comments: an example is read before it is copied."""


def test_all_are_listed_and_run() -> None:
    """Each folder is in the list of examples, and is started by a test."""
    listed = re.findall(r"^\| \[\w+\]\((\w+)\)", (EXAMPLES / "README.md").read_text(), re.MULTILINE)
    assert sorted(listed) == names()
    tests = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py") if path != Path(__file__))
    assert [name for name in names() if f'"{name}"' not in tests] == []


@pytest.mark.parametrize("name", names())
def test_short(name: str) -> None:
    """A README of a few lines with one command, and an application that fits on a screen."""
    assert (EXAMPLES / name / "README.md").read_text().count("\n") <= README_LINES_MAX
    assert command_of(name)
    lines = [line.strip() for line in (EXAMPLES / name / "app.py").read_text().splitlines()]
    assert len([line for line in lines if line and not line.startswith("#")]) <= APP_LINES_MAX


def imported(name: str) -> set[str]:
    """The distributions whose modules the example's files import at their top."""
    found = packages_distributions()
    nodes = [node for path in (EXAMPLES / name).glob("*.py") for node in ast.parse(path.read_text()).body]
    modules = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    modules |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}
    return {found[top][0] for module in modules if (top := module.partition(".")[0]) in found}


def plain(requirement: str) -> str:
    """The name in `pydantic-ai-slim[ag-ui]>=2; extra == "x"`."""
    return re.split(r"[^\w.-]", requirement, maxsplit=1)[0].lower()


@pytest.mark.parametrize("name", sorted(set(names()) - {"react_app"}))
def test_installs_what_it_imports(name: str) -> None:
    """The command installs each package that the example imports, by itself or as a part of another."""
    arguments = re.sub(r"[\"']", "", command_of(name).partition(" && ")[0]).removeprefix("pip install ../..").split()
    installed = {plain(package) for package in arguments}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    parts = [part for package in installed for part in requires(package) or ()]
    given = installed | {plain(part) for part in (*project["dependencies"], *parts)} | {"durable-chat"}
    assert {package.lower() for package in imported(name)} - given == set()


def test_pins_are_those_of_the_tests() -> None:
    """What `npm install` brings is what the tests run with."""
    example = json.loads((EXAMPLES / "react_app" / "package.json").read_text())
    tested = json.loads((INTEROP / "package.json").read_text())["devDependencies"]
    pins = example["dependencies"] | example["devDependencies"]
    assert pins == {name: tested[name] for name in pins}
