"""
Where a request says it comes from, and what no server may take for a request. Pure functions over a `Caller`, which hold
under any ASGI server.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from starlette.types import Scope

from durable_chat.config import is_loopback, split_url
from durable_chat.errors import DurableChatError, InvalidRequest, UnsupportedMediaType

NOTED = frozenset({b"host", b"origin", b"authorization", b"sec-fetch-site", b"content-encoding"})

# A proxy on this machine makes the whole world look like loopback; these headers give it away.
PROXY_HEADERS = frozenset(
    {
        *(b"forwarded", b"via", b"x-real-ip", b"x-client-ip", b"x-cluster-client-ip", b"x-original-forwarded-for"),
        *(
            b"cf-connecting-ip",
            b"cf-ray",
            b"true-client-ip",
            b"fly-client-ip",
            b"cdn-loop",
            b"x-envoy-external-address",
        ),
    }
)
TWICE = b"\x00"
"""Stands for a header that was sent twice: it fits nothing."""

ACCEPTED_CODINGS = {"Accept-Encoding": "identity"}


@dataclass(frozen=True, slots=True)
class Caller:
    """Where a request says it comes from. A header sent twice counts as one that fits nothing."""

    peer: str
    host: bytes | None = None
    origin: bytes | None = None
    authorization: bytes | None = None
    fetch_site: bytes | None = None
    proxied: bool = False
    coding: bytes | None = None


def caller_of(scope: Scope) -> Caller:
    found: dict[bytes, bytes] = {}
    # A proxy that nobody has configured speaks HTTP/1.0; what runs on this machine has not for twenty years.
    proxied = scope.get("http_version") == "1.0"
    for name, value in scope["headers"]:
        if name in NOTED:
            found[name] = TWICE if name in found else value
        elif name in PROXY_HEADERS or name.startswith(b"x-forwarded-"):
            proxied = True
    peer = scope.get("client")
    return Caller(
        peer[0] if peer else "",
        found.get(b"host"),
        found.get(b"origin"),
        found.get(b"authorization"),
        found.get(b"sec-fetch-site"),
        proxied,
        found.get(b"content-encoding"),
    )


def flaw_of(caller: Caller, scope: Scope) -> DurableChatError | None:
    """What is wrong with a request at any address, whichever server has read it."""
    if caller.host is None:
        if scope.get("http_version") == "1.1":
            return InvalidRequest("The Host header is missing: HTTP/1.1 needs one.", code="bad_host")
    elif not is_host(caller.host):
        return InvalidRequest("The Host header is malformed or was sent twice.", code="bad_host")
    if caller.coding is not None and caller.coding.lower() not in (b"", b"identity"):
        message = "Content-Encoding is not supported here: send the body as it is, uncompressed."
        return UnsupportedMediaType(message, code="bad_content_encoding", headers=ACCEPTED_CODINGS)
    return None


# Bounded, since a caller chooses what it sends; a few hundred names are more than any machine has.
@lru_cache(maxsize=256)
def is_host(host: bytes) -> bool:
    """Whether this is a host with or without a port (RFC 9110, 7.2); an empty one is none, and is said to be so."""
    return re.fullmatch(rb"(?:\[[0-9A-Fa-f:.]+\]|[-!$&'()*+.0-9;=A-Z_a-z~%]*)(?::[0-9]*)?", host) is not None


def is_local(caller: Caller) -> bool:
    """
    Whether the request was made on this machine to this machine, as far as that can be seen. The Host rule is against
    DNS rebinding: a page whose own name was pointed at 127.0.0.1 still sends that name. A page of this server that has
    another address than this machine's came through a proxy that hides it.
    """
    return (
        not caller.proxied
        and _is_loopback(caller.peer)
        and _is_loopback_host(caller.host or b"")
        and (caller.origin is None or caller.fetch_site != b"same-origin" or _is_loopback_origin(caller.origin))
    )


@lru_cache(maxsize=256)
def _is_loopback_host(host: bytes) -> bool:
    match = re.fullmatch(rb"(?:\[([0-9A-Fa-f:.]+)\]|([^:\[\]]+))(?::[0-9]*)?", host)
    return match is not None and is_loopback((match[1] or match[2]).decode("latin-1").lower())


@lru_cache(maxsize=256)
def _is_loopback_origin(origin: bytes) -> bool:
    parts = split_url(origin.decode("latin-1"))
    return parts is not None and is_loopback(parts.hostname or "")


@lru_cache(maxsize=256)
def _is_loopback(peer: str) -> bool:
    return is_loopback(peer)
