"""
Addresses: of stores, servers and origins.
"""

from __future__ import annotations

from urllib.parse import SplitResult, urlsplit


def split_url(url: str) -> SplitResult | None:
    """Return the parts of an `http` or `https` address with a host and a valid port, else None."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return None
    return parts if usable else None


def is_remote(store: str) -> bool:
    """Return whether a store's address names a Durable Streams server instead of a database."""
    return store.startswith(("http://", "https://"))


def origin_of(url: str) -> str | None:
    """Return an address in the form of the `Origin` header: lower case, no default port. None if it is none."""
    parts = split_url(url)
    if parts is None or parts.path not in ("", "/") or parts.query or parts.fragment or "@" in parts.netloc:
        return None
    host = parts.hostname or ""
    host = f"[{host}]" if ":" in host else host
    default_port = 443 if parts.scheme == "https" else 80
    return f"{parts.scheme}://{host}" + ("" if parts.port in (None, default_port) else f":{parts.port}")
