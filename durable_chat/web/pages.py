"""
Serves the page at `/` and the module of clients: a handful of static files, read once and answered from memory.

Only the files found in `static` are served, each by its exact name, so no path can lead anywhere else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType
from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from durable_chat.config import Settings
from durable_chat.web.templates import Page, render

_FOLDER: Final = Path(__file__).parent / "static"
_INDEX: Final = "index.html"
_MODULE: Final = "durable-chat.js"
_MODULE_TYPES: Final = "durable-chat.d.ts"
_MODULE_PARTS: Final = "durable-chat-"
"""What the files begin with that the module imports."""

_CONTENT_TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".ts": "text/plain; charset=utf-8",
}

# The page runs its own files only. Trusted Types make the browser refuse innerHTML and its like altogether, so a
# mistake in the page cannot turn a message into markup. Pictures may be data: because messages hold them so, and blob:,
# as sound and video may, where they are asked for with a token.
_CONTENT_SECURITY_POLICY: Final = "; ".join(
    (
        "default-src 'self'",
        "img-src 'self' data: blob:",
        "media-src 'self' blob:",
        "object-src 'none'",
        "base-uri 'none'",
        "form-action 'self'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)

# A session's address holds its id, so no other site is told where a reader came from.
_HEADERS: Final = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": _CONTENT_SECURITY_POLICY,
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


@dataclass(frozen=True, slots=True)
class PageFile:
    """One file with what it is answered with. `etag` is of its bytes, so it changes when they do."""

    content: bytes
    content_type: str
    etag: str


# Pages of other origins import it; whether these may use the chat is decided where they do.
_MODULE_HEADERS: Final = {
    "Access-Control-Allow-Origin": "*",
    "Cross-Origin-Resource-Policy": "cross-origin",
}


def page_routes(settings: Settings, page: Page | None) -> list[BaseRoute]:
    """
    `/durable-chat.js`, its types and what it imports, and with a page `/` and `/static/{name}`. The page asks for everything
    relative to itself, so it may be mounted below a path.
    """
    files = _read_files(_FOLDER)
    template = files.pop(_INDEX).content.decode()
    front = _file(render(template, page or Page(), settings).encode(), ".html")

    async def module(request: Request) -> Response:
        return _answer(files[_MODULE], request, _MODULE_HEADERS)

    async def types(request: Request) -> Response:
        return _answer(files[_MODULE_TYPES], request, _MODULE_HEADERS)

    async def part(request: Request) -> Response:
        file = files.get(f"{_MODULE_PARTS}{request.path_params['name']}.js")
        if file is None:
            raise HTTPException(404)
        return _answer(file, request, _MODULE_HEADERS)

    async def index(request: Request) -> Response:
        return _answer(front, request)

    async def static(request: Request) -> Response:
        file = files.get(request.path_params["name"])
        if file is None:
            raise HTTPException(404)
        return _answer(file, request)

    routes: list[BaseRoute] = [
        Route(f"/{_MODULE}", module, name="client-module"),
        Route(f"/{_MODULE_TYPES}", types, name="client-module-types"),
        Route(f"/{_MODULE_PARTS}{{name}}.js", part, name="client-module-part"),
    ]
    if page:
        routes += [Route("/", index, name="page"), Route("/static/{name}", static, name="page-file")]
    return routes


def _read_files(folder: Path) -> dict[str, PageFile]:
    paths = (path for path in sorted(folder.iterdir()) if path.suffix in _CONTENT_TYPES)
    return {path.name: _read_file(path) for path in paths}


def _read_file(path: Path) -> PageFile:
    return _file(path.read_bytes(), path.suffix)


def _file(content: bytes, suffix: str) -> PageFile:
    return PageFile(content, _CONTENT_TYPES[suffix], f'"{sha256(content).hexdigest()[:32]}"')


def _answer(file: PageFile, request: Request, extra: Mapping[str, str] = MappingProxyType({})) -> Response:
    headers = {**_HEADERS, **extra, "ETag": file.etag}
    if _holds_etag(request.headers.get("If-None-Match", ""), file.etag):
        return Response(status_code=304, headers=headers)
    return Response(file.content, headers=headers, media_type=file.content_type)


def _holds_etag(if_none_match: str, etag: str) -> bool:
    """Weak comparison (RFC 9110 section 13.1.2): a proxy that compresses may have marked the tag weak."""
    tags = (tag.strip().removeprefix("W/") for tag in if_none_match.split(","))
    return any(tag in (etag, "*") for tag in tags)
