"""
Session tokens: signed JWTs (RFC 7519, HS256) that allow actions on one session until they expire. The server does not
store them, so a token cannot be revoked before it expires.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import jwt

from durable_chat.config.settings import Action
from durable_chat.errors import Unauthorized

ALGORITHM = "HS256"

LEEWAY_S = 1.0
"""How long a token is accepted after its `exp`. Synchronized clocks of two machines differ by less."""

EXPIRES_MAX_S = 253_402_300_799
"""The end of the year 9999. A later `exp` is probably not in seconds."""

MISSING = {"WWW-Authenticate": "Bearer"}
INVALID = {"WWW-Authenticate": 'Bearer error="invalid_token"'}
"""A response to a request without a token contains no error code (RFC 6750 section 3.1)."""

# This module compares times itself, because PyJWT does not accept a clock.
_OPTIONS: Any = {
    "require": ["exp", "sub", "can"],
    "verify_exp": False,
    "verify_nbf": False,
    "verify_iat": False,
}


@dataclass(frozen=True, slots=True)
class Token:
    """The content of a valid token. It is accepted until `until_s` (Unix time)."""

    session_id: str
    can: frozenset[str]
    until_s: float


def issue(secret: str, session_id: str, can: Iterable[Action], *, now_s: float, ttl_s: int) -> str:
    """Return a token for a session that is valid for `ttl_s` seconds. `secret` has the length the setting requires."""
    claims = {"sub": session_id, "can": list(can), "iat": int(now_s), "exp": math.ceil(now_s) + ttl_s}
    return jwt.encode(claims, secret, ALGORITHM)


def verify(secret: str, token: str, *, now_s: float) -> Token:
    """
    Return the content of a token. Raises Unauthorized: `expired_token` for an expired token, `bad_token` for any other
    that is not valid.
    """
    try:
        claims = jwt.decode(token, secret, algorithms=[ALGORITHM], options=_OPTIONS)
    except (jwt.PyJWTError, RecursionError) as error:
        # A deeply nested JWT header overflows the JSON parser's stack before the signature is verified.
        raise bad_token() from error
    session_id, can, expires_s = claims["sub"], claims["can"], claims["exp"]
    if not isinstance(session_id, str) or not _are_names(can) or not _is_time(expires_s):
        raise bad_token()
    if not _is_time(not_before_s := claims.get("nbf", 0)) or now_s < not_before_s - LEEWAY_S:
        raise bad_token()
    until_s = expires_s + LEEWAY_S
    if now_s >= until_s:
        raise expired_token()
    return Token(session_id, frozenset(can), until_s)


def _are_names(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _is_time(value: object) -> bool:
    # NaN, which Python's JSON parser accepts, is not in the range.
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= EXPIRES_MAX_S


def bearer_token(authorization: bytes | None) -> str:
    """Return the token of an `Authorization` header. Raises Unauthorized `missing_token` or `bad_token`."""
    scheme, _, token = (authorization or b"").partition(b" ")
    if scheme.lower() != b"bearer":
        raise missing_token()
    try:
        return token.strip().decode("ascii")
    except UnicodeDecodeError as error:
        raise bad_token() from error


def missing_token() -> Unauthorized:
    return Unauthorized("This chat requires a token.", code="missing_token", headers=MISSING)


def bad_token() -> Unauthorized:
    return Unauthorized("The token is not valid.", code="bad_token", headers=INVALID)


def expired_token() -> Unauthorized:
    return Unauthorized("The token has expired.", code="expired_token", headers=INVALID)
