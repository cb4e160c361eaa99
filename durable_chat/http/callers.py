"""
The origin of a request, and the checks that every request must pass. Pure functions over a `Caller`, which work under
any ASGI server.
"""

from __future__ import annotations

import contextlib
import ipaddress
import re
from functools import lru_cache
from typing import Any

import msgspec
from starlette.types import Scope

from durable_chat.config.addresses import split_url
from durable_chat.errors import DurableChatError, InvalidRequest, UnsupportedMediaType

NOTED = frozenset({b"host", b"origin", b"authorization", b"sec-fetch-site", b"content-encoding"})

# Behind a proxy on this machine, every request comes from a loopback address. These headers reveal the proxy.
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
"""The value of a header that was sent twice. It matches nothing."""

ACCEPTED_CODINGS = {"Accept-Encoding": "identity"}


# A struct, because one is made for each request: a frozen dataclass of seven fields takes ten times as long.
class Caller(msgspec.Struct, frozen=True, gc=False):
    """The peer and the identifying headers of a request. A header that was sent twice matches nothing."""

    peer: str
    host: bytes | None = None
    origin: bytes | None = None
    authorization: bytes | None = None
    fetch_site: bytes | None = None
    proxied: bool = False
    coding: bytes | None = None


def caller_of(scope: Scope) -> Caller:
    found: dict[bytes, bytes] = {}
    # Proxies (such as nginx) use HTTP/1.0 by default. Clients on this machine do not use it any more.
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
    """Return what is wrong with a request to any path, under any server, or None."""
    if caller.host is None:
        if scope.get("http_version") == "1.1":
            return InvalidRequest("The Host header is missing: HTTP/1.1 requires one.", code="bad_host")
    elif not is_host(caller.host):
        return InvalidRequest("The Host header is malformed or was sent twice.", code="bad_host")
    if caller.coding is not None and caller.coding.lower() not in (b"", b"identity"):
        message = "Content-Encoding is not supported: send the body uncompressed."
        return UnsupportedMediaType(message, code="bad_content_encoding", headers=ACCEPTED_CODINGS)
    return None


# Bounded because callers choose what they send. A machine has fewer names than this.
@lru_cache(maxsize=256)
def is_host(host: bytes) -> bool:
    """Return whether this is a valid Host header (RFC 9110, 7.2), with or without a port. It may be empty."""
    return re.fullmatch(rb"(?:\[[0-9A-Fa-f:.]+\]|[-!$&'()*+.0-9;=A-Z_a-z~%]*)(?::[0-9]*)?", host) is not None


def is_local(caller: Caller) -> bool:
    """
    Return whether the request comes from this machine and goes to this machine, as far as the server can tell. The Host
    rule prevents DNS rebinding: a page whose name resolves to 127.0.0.1 still sends that name. A page of this server
    whose origin is not loopback came through a proxy that does not reveal itself.
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


def address_of(name: Any) -> tuple[str, int] | None:
    """A socket's name, where it is a host and a port."""
    with contextlib.suppress(TypeError, ValueError, IndexError):
        return str(name[0]), int(name[1])
    return None


def is_loopback(host: str) -> bool:
    """Return whether a host name or address is loopback. A name that needs a DNS lookup is not."""
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback
