"""The page's files: headers, caching, and addresses that must not exist."""

from __future__ import annotations

import http.client
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

import durable_chat.web
from durable_chat.config.settings import Settings
from durable_chat.web.templates import Page, render
from tests.servers import Server

STATIC = Path(durable_chat.web.__file__).parent / "static"
TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".ts": "text/plain; charset=utf-8",
}
# Attributes that contain a style or a script, on any element.
INLINE = re.compile(r"^(on.+|style)$")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all tests, none of which writes."""
    started = Server(
        tmp_path_factory.mktemp("pages"), {"DURABLE_CHAT_MODEL": "demo", "DURABLE_CHAT_STORE": "memory://"}
    )
    started.start()
    yield started
    started.kill()


def ask(
    server: Server, target: str, method: str = "GET", headers: dict[str, str] | None = None
) -> tuple[http.client.HTTPResponse, bytes]:
    """Send exactly this request target and return the response."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    try:
        connection.request(method, target, headers=headers or {})
        answer = connection.getresponse()
        return answer, answer.read()
    finally:
        connection.close()


class Markup(HTMLParser):
    """A parser that lists an HTML file's references and inline content. Mutable: both lists, filled by `feed`."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.inline: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if tag == "style" or (tag == "script" and not found.get("src")):
            self.inline.append(tag)
        self.inline += [f"{tag} {name}" for name in found if INLINE.match(name)]
        self.addresses += [value for name, value in attrs if name in {"src", "href"} and value]


def index() -> Markup:
    markup = Markup()
    markup.feed((STATIC / "index.html").read_text())
    return markup


@pytest.mark.parametrize("name", ["", *sorted(path.name for path in STATIC.iterdir() if path.suffix != ".html")])
def test_files(server: Server, name: str) -> None:
    """Each file is served with its type and its policies, and is sent again only after a change."""
    target, path = (f"/static/{name}", STATIC / name) if name else ("/", STATIC / "index.html")
    content = path.read_bytes() if name else render(path.read_text(), Page(), Settings()).encode()
    answer, body = ask(server, target)
    assert (answer.status, body) == (200, content)
    assert answer.headers["Content-Type"] == TYPES[path.suffix]
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Referrer-Policy"] == "no-referrer"
    assert answer.headers["Cache-Control"] == "no-cache"
    etag = answer.headers["ETag"]
    for held in (etag, f"W/{etag}", f'"other", {etag}', "*"):
        again, nothing = ask(server, target, headers={"If-None-Match": held})
        assert (again.status, nothing, again.headers["ETag"]) == (304, b"", etag)
        assert again.headers["Content-Security-Policy"] == answer.headers["Content-Security-Policy"]
    changed, body = ask(server, target, headers={"If-None-Match": '"another"'})
    assert (changed.status, body) == (200, content)


def test_module_of_clients(server: Server) -> None:
    """The module has its own address and can be used by pages of any origin."""
    answer, body = ask(server, "/durable-chat.js", headers={"Origin": "https://elsewhere.example"})
    assert (answer.status, body) == (200, (STATIC / "durable-chat.js").read_bytes())
    assert answer.headers["Content-Type"] == TYPES[".js"]
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    assert answer.headers["Cross-Origin-Resource-Policy"] == "cross-origin"
    types, told = ask(server, "/durable-chat.d.ts")
    assert (types.status, told) == (200, (STATIC / "durable-chat.d.ts").read_bytes())
    again, nothing = ask(server, "/durable-chat.js", headers={"If-None-Match": answer.headers["ETag"]})
    assert (again.status, nothing, again.headers["Access-Control-Allow-Origin"]) == (304, b"", "*")


def test_head(server: Server) -> None:
    """HEAD returns the same headers without the file."""
    told, nothing = ask(server, "/", "HEAD")
    whole, body = ask(server, "/")
    assert (told.status, nothing) == (200, b"")
    assert told.headers["ETag"] == whole.headers["ETag"]
    assert told.headers["Content-Length"] == str(len(body))


def test_policy(server: Server) -> None:
    """Only the page's own files run, no other page frames it, and text cannot become markup."""
    answer, _ = ask(server, "/")
    directives = (part.split() for part in answer.headers["Content-Security-Policy"].split(";"))
    policy = {name: set(values) for name, *values in directives}
    for kind in ("script-src", "style-src", "connect-src"):
        assert policy.get(kind, policy["default-src"]) == {"'self'"}
    assert policy["frame-ancestors"] == policy["object-src"] == policy["base-uri"] == {"'none'"}
    assert policy["require-trusted-types-for"] == {"'script'"}


def test_nothing_inline() -> None:
    """The page has no inline script or style, because the policy would block it."""
    assert index().inline == []


def test_everything_is_there(server: Server) -> None:
    """Everything that the page refers to is served by this server, below any mount path."""
    addresses = index().addresses
    modules = {path.name for path in STATIC.glob("*.js")}
    assert {address.removeprefix("static/") for address in addresses if address.endswith(".js")} == modules
    for address in addresses:
        assert not address.startswith(("/", "http")), address
        assert ask(server, f"/{address}")[0].status == 200, address


def test_modules_import_what_exists() -> None:
    """Imports between the modules are relative and exist."""
    for path in STATIC.glob("*.js"):
        code = "\n".join(line for line in path.read_text().splitlines() if not line.lstrip().startswith("//"))
        for imported in re.findall(r'from "([^"]+)"', code):
            assert imported.startswith("./"), f"{path.name} imports {imported}"
            assert (STATIC / imported).is_file(), f"{path.name} imports {imported}"


def test_text_is_never_read_as_markup() -> None:
    """No module uses functions that parse text as elements or code, so the policy has nothing to block."""
    banned = re.compile(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|\beval\b|new Function|srcdoc"
    )
    for path in STATIC.glob("*.js"):
        for line in path.read_text().splitlines():
            assert line.lstrip().startswith("//") or not banned.search(line), f"{path.name}: {line}"


@pytest.mark.parametrize(
    "target",
    [
        "/static/",
        "/static",
        "/static/missing.js",
        "/static/__init__.py",
        "/static/../pages.py",
        "/static/../../app.py",
        "/static/%2e%2e/pages.py",
        "/static/%2e%2e%2fpages.py",
        "/static/..%2fpages.py",
        "/static/..%5cpages.py",
        "/static/%252e%252e%252fpages.py",
        "/static//etc/passwd",
        "/static/%2fetc%2fpasswd",
        "/static/app.js%00",
        "/static/app.js%00.css",
        "/static/app.js/",
        "/static/./app.js",
        "/static/APP.JS",
        "/index.html",
        "/../../etc/passwd",
    ],
)
def test_nothing_else_is_served(server: Server, target: str) -> None:
    """Only a file's exact name is served. Any other address is a plain 404."""
    answer, body = ask(server, target)
    assert answer.status == 404
    assert answer.headers["Content-Type"] == "application/json"
    assert json.loads(body)["code"] == "not_found"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_files_are_only_read(server: Server, method: str) -> None:
    """The page's addresses answer only GET and HEAD."""
    answer, body = ask(server, "/static/app.js", method)
    assert answer.status == 405
    assert json.loads(body)["code"] == "method_not_allowed"
