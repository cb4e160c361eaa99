"""
Tokens that open one session for a time: signed JWTs (RFC 7519, HS256). Nothing of them is kept, so none can be taken
back before it expires.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import jwt

from durable_chat.config import Action
from durable_chat.errors import Unauthorized

ALGORITHM = "HS256"

LEEWAY_S = 1.0
"""How long a token is good after its `exp`: the clocks of two machines that keep time differ by less."""

EXPIRES_MAX_S = 253_402_300_799
"""The end of the year 9999: a later `exp` is in another unit than seconds."""

MISSING = {"WWW-Authenticate": "Bearer"}
INVALID = {"WWW-Authenticate": 'Bearer error="invalid_token"'}
"""As RFC 6750 section 3.1 has it: who sent no token is told of no error."""

# Times are compared here, since PyJWT takes no clock.
_OPTIONS: Any = {
    "require": ["exp", "sub", "can"],
    "verify_exp": False,
    "verify_nbf": False,
    "verify_iat": False,
}


@dataclass(frozen=True, slots=True)
class Token:
    """What a token says that was found genuine. `until_s` (Unix time) is when it stops being taken."""

    session_id: str
    can: frozenset[str]
    until_s: float


def issue(secret: str, session_id: str, can: Iterable[Action], *, now_s: float, ttl_s: int) -> str:
    """A token for a session, to be good for `ttl_s` seconds. `secret` is as long as the setting asks for."""
    claims = {"sub": session_id, "can": list(can), "iat": int(now_s), "exp": math.ceil(now_s) + ttl_s}
    return jwt.encode(claims, secret, ALGORITHM)


def verify(secret: str, token: str, *, now_s: float) -> Token:
    """Raises Unauthorized: `bad_token` for what we did not sign, `expired_token` for what we did."""
    try:
        claims = jwt.decode(token, secret, algorithms=[ALGORITHM], options=_OPTIONS)
    except (jwt.PyJWTError, RecursionError) as error:
        # A header nested deeply enough ends the JSON reader's stack before the signature is looked at.
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
    # Not a number, which JSON in Python may hold, is not in the range.
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= EXPIRES_MAX_S


def bearer_token(authorization: bytes | None) -> str:
    """The token of an `Authorization` header. Raises Unauthorized `missing_token` or `bad_token`."""
    scheme, _, token = (authorization or b"").partition(b" ")
    if scheme.lower() != b"bearer":
        raise missing_token()
    try:
        return token.strip().decode("ascii")
    except UnicodeDecodeError as error:
        raise bad_token() from error


def missing_token() -> Unauthorized:
    return Unauthorized("This chat needs a token.", code="missing_token", headers=MISSING)


def bad_token() -> Unauthorized:
    return Unauthorized("The token is not valid.", code="bad_token", headers=INVALID)


def expired_token() -> Unauthorized:
    return Unauthorized("The token has expired.", code="expired_token", headers=INVALID)
