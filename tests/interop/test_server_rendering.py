"""The loaders of docs/guides/server-rendering.md, unchanged, in Node.js with a real server."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import Any

import httpx
import pytest

from tests.conftest import Serve
from tests.interop.playing import play
from tests.servers import ROOT, Server

GUIDE = ROOT / "docs" / "guides" / "server-rendering.md"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The guide's files. A page imports the others from its own folder."""
    made = tmp_path / "pages"
    code = re.findall(r"```jsx?\n// (\S+)\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    files = dict(code)
    assert len(files) == len(code) == 5
    places = {PurePosixPath(name).parent for name in files}
    for name, text in files.items():
        for place in places if "/" not in name else [PurePosixPath(name).parent]:
            path = made / place / PurePosixPath(name).name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    return made


def say(server: Server, text: str) -> None:
    body = {"messages": [{"id": "u1", "role": "user", "parts": [{"type": "text", "content": text}]}]}
    answer = httpx.post(f"{server.url}/api/chat", params={"id": "rendered", "mode": "await"}, json=body, timeout=30)
    assert answer.status_code == 200, answer.text


def run(server: Server, scenario: str, folder: Path, **options: Any) -> Any:
    return play("rendering.mjs", scenario, base=server.url, folder=str(folder), id="rendered", cookie="a=b", **options)


@pytest.mark.parametrize("framework", ["next", "start"])
def test_a_page(serve: Serve, folder: Path, framework: str) -> None:
    """The first HTML has the whole chat, with the role of each message."""
    server = serve(DURABLE_CHAT_DEMO_CHUNKS="3")
    say(server, "render me")
    html = run(server, framework, folder)
    articles = re.findall(r'<article data-role="(\w+)">(.*?)</article>', html, re.DOTALL)
    assert [role for role, _ in articles] == ["user", "assistant"]
    assert "<p>render me</p>" in articles[0][1]
    assert "<p>" in articles[1][1]


def test_a_first_visit(serve: Serve, folder: Path) -> None:
    """A session that does not exist renders as a page without messages."""
    assert run(serve(), "next", folder) == ""


def test_the_caching_loader(serve: Serve, folder: Path) -> None:
    """The second load of an unchanged session gets a 304 and returns the same data."""
    server = serve(DURABLE_CHAT_DEMO_CHUNKS="3")
    say(server, "keep me")
    facts = run(server, "cached", folder)
    assert facts["statuses"] == [200, 304]
    assert facts["first"] == facts["second"]
    assert len(facts["first"]["messages"]) == 2
