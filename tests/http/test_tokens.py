"""The rules of tokens, each tested with its own clock."""

from __future__ import annotations

import base64
import json
from typing import Any

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable_chat.config.settings import ACTIONS, Action
from durable_chat.errors import Unauthorized
from durable_chat.http.tokens import LEEWAY_S, Token, bearer_token, issue, verify

SECRET = "a secret of the tests, long enough".replace(" ", "-")
NOW_S = 1_763_700_000.25
GOOD: dict[str, Any] = {"sub": "a", "can": ["read"], "exp": int(NOW_S) + 60}


def signed(claims: dict[str, Any], secret: str = SECRET, algorithm: str = "HS256") -> str:
    return jwt.encode(claims, secret, algorithm)


def segment(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def code_of(token: str, now_s: float = NOW_S) -> str:
    with pytest.raises(Unauthorized) as refused:
        verify(SECRET, token, now_s=now_s)
    assert refused.value.headers == {"WWW-Authenticate": 'Bearer error="invalid_token"'}
    return refused.value.code


@given(st.text(min_size=1).filter(str.isprintable), st.sets(st.sampled_from(ACTIONS)), st.integers(1, 10**9))
def test_round_trip(session_id: str, can: set[Action], ttl_s: int) -> None:
    """An issued token is valid, has the requested claims, and lasts as long as requested."""
    token = issue(SECRET, session_id, can, now_s=NOW_S, ttl_s=ttl_s)
    found = verify(SECRET, token, now_s=NOW_S)
    assert (found.session_id, set[str](found.can)) == (session_id, set[str](can))
    assert ttl_s <= found.until_s - LEEWAY_S - NOW_S < ttl_s + 1


@pytest.mark.parametrize("now_s", [NOW_S, GOOD["exp"], GOOD["exp"] + LEEWAY_S - 0.001])
def test_taken(now_s: float) -> None:
    """A token is valid until its expiry plus the leeway for clocks."""
    assert verify(SECRET, signed(GOOD), now_s=now_s) == Token("a", frozenset({"read"}), GOOD["exp"] + LEEWAY_S)


@pytest.mark.parametrize("late_s", [0, 0.001, 1e6])
def test_expired(late_s: float) -> None:
    """The error of an expired token differs from that of an invalid one."""
    assert code_of(signed(GOOD), GOOD["exp"] + LEEWAY_S + late_s) == "expired_token"


@pytest.mark.parametrize(
    "claims",
    [
        *({name: value for name, value in GOOD.items() if name != left_out} for left_out in GOOD),
        *({**GOOD, "exp": exp} for exp in ("soon", True, None, -1, float("inf"), float("nan"), 10**400, NOW_S * 1000)),
        *({**GOOD, "can": can} for can in ("read", None, {"read": True}, [1], 7)),
        *({**GOOD, "sub": sub} for sub in (7, None, ["a"])),
        *({**GOOD, "nbf": nbf} for nbf in (int(NOW_S) + 10, "later", float("nan"))),
        {**GOOD, "aud": "another service"},
    ],
    ids=str,
)
def test_claims_that_will_not_do(claims: dict[str, Any]) -> None:
    """A missing or invalid claim makes a token invalid, even with a correct signature."""
    payload = segment(claims)
    head = segment({"alg": "HS256", "typ": "JWT"})
    signature = jwt.get_algorithm_by_name("HS256")
    raw = signature.sign(f"{head}.{payload}".encode(), signature.prepare_key(SECRET))
    token = f"{head}.{payload}.{base64.urlsafe_b64encode(raw).rstrip(b'=').decode()}"
    assert code_of(token) == "bad_token"


def test_claims_that_may_be_there() -> None:
    """Unknown claims and unknown actions are accepted."""
    more = {"iat": int(NOW_S) + 100, "nbf": int(NOW_S), "iss": "us", "jti": "1", "name": "Ada", "can": ["read", "draw"]}
    assert verify(SECRET, signed({**GOOD, **more}), now_s=NOW_S).can == {"read", "draw"}


@pytest.mark.parametrize("algorithm", ["HS384", "HS512"])
def test_other_algorithm(algorithm: str) -> None:
    """Only one algorithm is accepted, whatever the token names, also with the right secret."""
    assert code_of(signed(GOOD, SECRET * 2, algorithm)) == "bad_token"
    assert code_of(signed(GOOD, SECRET + "x" * 64, algorithm)) == "bad_token"


@pytest.mark.parametrize("alg", ["none", "None", "NONE", "", None, ["HS256"], {}, "hs256"])
def test_no_algorithm(alg: object) -> None:
    """A token with the algorithm `none` is invalid."""
    unsigned = f"{segment({'alg': alg, 'typ': 'JWT'})}.{segment(GOOD)}."
    assert code_of(unsigned) == "bad_token"
    assert code_of(unsigned + signed(GOOD).rpartition(".")[2]) == "bad_token"


def test_wrong_signature() -> None:
    """A token signed with another secret, with changed claims or a cut signature is refused."""
    head, payload, signature = signed(GOOD).split(".")
    other = segment({**GOOD, "sub": "b"})
    for token in (
        signed(GOOD, "x" * 32),
        f"{head}.{other}.{signature}",
        f"{head}.{payload}.",
        f"{head}.{payload}",
        f"{head}.{payload}.{signature[:-4]}",
        f"{head}.{payload}.{signature}.{signature}",
    ):
        assert code_of(token) == "bad_token"


@pytest.mark.parametrize("late_s", [0, 1000])
def test_signature_comes_first(late_s: float) -> None:
    """The error says that a token has expired only if its signature is correct."""
    assert code_of(signed(GOOD, "x" * 32), NOW_S + late_s) == "bad_token"


@given(st.text())
def test_anything(text: str) -> None:
    """Any text is refused without another exception."""
    assert code_of(text) == "bad_token"


@given(
    st.recursive(
        st.none() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_any_header(header: object) -> None:
    """A token with any header is refused without another exception."""
    assert code_of(f"{segment(header)}.{segment(GOOD)}.AAAA") == "bad_token"


def test_deep_header() -> None:
    """A header nested too deeply for the parser is refused too."""
    deep = base64.urlsafe_b64encode(b"[" * 40_000).rstrip(b"=").decode()
    assert code_of(f"{deep}.{segment(GOOD)}.AAAA") == "bad_token"


@pytest.mark.parametrize(("header", "token"), [(b"Bearer", ""), (b"Bearer t", "t"), (b"bearer  t ", "t")])
def test_header(header: bytes, token: str) -> None:
    """The token is in the Authorization header, with the Bearer scheme."""
    assert bearer_token(header) == token


@pytest.mark.parametrize("header", [None, b"", b"Basic dTpw", b"\x00", b"Bearer-t"])
def test_header_without_token(header: bytes | None) -> None:
    """A request without a token gets a challenge without an error code (RFC 6750 section 3.1)."""
    with pytest.raises(Unauthorized) as refused:
        bearer_token(header)
    assert refused.value.code == "missing_token"
    assert refused.value.headers == {"WWW-Authenticate": "Bearer"}


def test_header_that_is_no_text() -> None:
    """A token that is not ASCII is refused."""
    with pytest.raises(Unauthorized) as refused:
        bearer_token(b"Bearer t\xff")
    assert refused.value.code == "bad_token"
