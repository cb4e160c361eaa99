"""
Serves the page at `/` and the JavaScript module for clients: a few static files, read once and served from memory.

Only files in `static` are served, each by its exact name, so no path can lead outside it.
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

from durable_chat.config.settings import Settings
from durable_chat.web.templates import Page, render

_FOLDER: Final = Path(__file__).parent / "static"
_INDEX: Final = "index.html"
_MODULE: Final = "durable-chat.js"
_MODULE_TYPES: Final = "durable-chat.d.ts"
_MODULE_PARTS: Final = "durable-chat-"
"""The prefix of the names of files that the module imports."""

_CONTENT_TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".ts": "text/plain; charset=utf-8",
}

# The page runs only its own files. Trusted Types make the browser refuse innerHTML and similar, so a bug in the page
# cannot turn a message into markup. Images may be data: URLs because messages contain them. Images, audio and video may
# be blob: URLs because the page fetches them with a token.
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

# A session's address contains its id, so no referrer is sent to other sites.
_HEADERS: Final = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": _CONTENT_SECURITY_POLICY,
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


@dataclass(frozen=True, slots=True)
class PageFile:
    """A file and its response headers. `etag` is a hash of the bytes."""

    content: bytes
    content_type: str
    etag: str


# Pages of other origins may import the module. `/api` decides whether they may use the chat.
_MODULE_HEADERS: Final = {
    "Access-Control-Allow-Origin": "*",
    "Cross-Origin-Resource-Policy": "cross-origin",
}


def page_routes(settings: Settings, page: Page | None) -> list[BaseRoute]:
    """
    Return the routes of `/durable-chat.js`, its types and its imports, and those of `/` and `/static/{name}` if `page`
    is given. The page uses relative addresses only, so it may be mounted below a path.
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
    """Compare weakly (RFC 9110 section 13.1.2), because a proxy that compresses may have marked the tag weak."""
    tags = (tag.strip().removeprefix("W/") for tag in if_none_match.split(","))
    return any(tag in (etag, "*") for tag in tags)
