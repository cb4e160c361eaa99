"""The types of /durable-chat.js."""

from __future__ import annotations

import re

from tests.servers import ROOT, run_node

STATIC = ROOT / "durable_chat" / "web" / "static"


def test_the_types_fit_the_clients() -> None:
    """TypeScript compiles users' code with the stock client, and rejects invalid code."""
    done = run_node(["node_modules/typescript/bin/tsc", "-p", "."], timeout_s=120, check=False)
    assert done.returncode == 0, done.stdout


def test_the_types_name_what_the_module_gives() -> None:
    """Each export has a type and each type an export, and the options are the module's."""
    module = (STATIC / "durable-chat.js").read_text()
    types = (STATIC / "durable-chat.d.ts").read_text()
    exported = set(re.findall(r"^export (?:async )?function\*? (\w+)", module, re.MULTILINE))
    for names in re.findall(r"^export \{ ([\w, ]+) \};", module, re.MULTILINE):
        exported |= set(names.split(", "))
    assert set(re.findall(r"^export (?:function|class) (\w+)", types, re.MULTILINE)) == exported
    documented = set(re.findall(r"^ \* @property \{.*\} \[?(\w+)\]?", module, re.MULTILINE))
    options = types.partition("interface DurableOptions {")[2].partition("\n}")[0]
    assert set(re.findall(r"^  (\w+)\??:", options, re.MULTILINE)) == documented
