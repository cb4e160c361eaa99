"""Files in messages: what counts as data, what is refused, what becomes an artifact, and which files are equal."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable_chat.errors import InvalidRequest, TooLarge
from durable_chat.transcripts.attachments import (
    FILES_MAX,
    SLICE_CHARS,
    Detacher,
    artifact_in,
    decode_base64,
    encode_base64,
    hash_of,
    same_parts,
)

DETACHER = Detacher("a b/c", "/mounted", min_bytes=10, max_bytes=100)
LONG = b"x" * 11


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def part(data: bytes | str, media_type: Any = "image/png", kind: str = "image", **more: Any) -> dict[str, Any]:
    value = data if isinstance(data, str) else b64(data)
    return {"type": kind, "source": {"type": "data", "value": value, "mimeType": media_type}, **more}


def url_part(url: str, kind: str = "image", **more: Any) -> dict[str, Any]:
    return {"type": kind, "source": {"type": "url", "value": url, **more}}


def message(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"id": "u1", "role": "user", "parts": list(parts)}


def test_long_data_becomes_an_address() -> None:
    """Long data is replaced by a URL with the encoded session and the mount path. The part keeps its other fields."""
    text = {"type": "text", "content": "look"}
    made, files = DETACHER.detach(message(text, part(LONG, metadata={"detail": "low"})))
    url = f"/mounted/api/chat-artifact?id=a%20b%2Fc&artifact={hash_of(LONG)}"
    source = {"type": "url", "value": url, "mimeType": "image/png"}
    assert made["parts"] == [text, {"type": "image", "source": source, "metadata": {"detail": "low"}}]
    (file,) = files
    assert (file.id, file.media_type, file.data) == (hash_of(LONG), "image/png", LONG)
    assert artifact_in(source) == ("a b/c", hash_of(LONG))
    assert DETACHER.detach(made) == (made, [])


def test_parameters_of_a_media_type() -> None:
    """A media type may have parameters, which recorders use to name their codecs."""
    for media_type in (
        "audio/webm;codecs=opus",
        'video/mp4; codecs="avc1.42E01E, mp4a.40.2"',
        "text/plain ; charset=utf-8",
    ):
        _, (made,) = DETACHER.detach(message(part(LONG, media_type)))
        assert made.media_type == media_type


@pytest.mark.parametrize("kind", ["image", "audio", "video", "document"])
def test_short_data_stays(kind: str) -> None:
    """Short data, external URLs and parts without a file stay as posted."""
    parts = [part(b"x" * 10, kind=kind), url_part("https://example.org/x.png"), {"type": "note", "source": {"a": 1}}]
    assert DETACHER.detach(message(*parts)) == (message(*parts), [])


@pytest.mark.parametrize(
    ("url", "media_type", "data"),
    [
        (f"data:image/png;base64,{b64(LONG)}", "image/png", LONG),
        (f"DATA:text/plain;charset=utf-8;BASE64,{b64(LONG)}", "text/plain;charset=utf-8", LONG),
        ("data:text/html,%3Cp%3Ehello%20there", "text/html", b"<p>hello there"),
        ("data:,hello%20there", "text/plain", b"hello there"),
    ],
)
def test_a_data_url_is_data(url: str, media_type: str, data: bytes) -> None:
    """A `data:` URL counts as data in every spelling. A short one becomes a data source."""
    _, files = DETACHER.detach(message(url_part(url)))
    assert [(file.media_type, file.data) for file in files] == [(media_type, data)]
    made, files = Detacher("s", min_bytes=100).detach(message(url_part(url)))
    assert not files
    (shown,) = made["parts"]
    assert shown["source"]["type"] == "data"
    assert decode_base64(shown["source"]["value"]) == data


@pytest.mark.parametrize(
    ("value", "media_type", "code"),
    [
        *(
            (value, "image/png", "bad_data")
            for value in ("!", "A", "AAAAA", "AA=A", "AA===", "=", "ÄÖÜß", "AA A", "-_8=")
        ),
        *(
            (b"x", media_type, "bad_media_type")
            for media_type in (None, "", "png", "image/", "a/b\r\nX: y", 'a/b; c="\U0001f600"', 5)
        ),
        (b"x", "a/" + "b" * 200, "bad_media_type"),
        (b"x" * 101, "image/png", "artifact_too_large"),
        ("A" * 1000, "image/png", "artifact_too_large"),
    ],
)
def test_refused(value: Any, media_type: Any, code: str) -> None:
    """Invalid base64, a missing media type and too much data are refused."""
    with pytest.raises((InvalidRequest, TooLarge)) as refused:
        DETACHER.detach(message(part(value, media_type)))
    assert refused.value.code == code


def test_refused_data_urls_and_too_many_files() -> None:
    """An invalid data: URL and too many files in a message are refused."""
    with pytest.raises(InvalidRequest) as refused:
        DETACHER.detach(message(url_part("data:image/png;base64")))
    assert refused.value.code == "bad_data"
    many = [part(LONG + bytes([number])) for number in range(FILES_MAX + 1)]
    assert len(DETACHER.detach(message(*many[1:]))[1]) == FILES_MAX
    with pytest.raises(TooLarge) as too_many:
        DETACHER.detach(message(*many))
    assert too_many.value.code == "too_many_files"


@given(st.binary(max_size=200), st.sampled_from(["", "\n", "\r\n"]), st.booleans())
def test_base64_round_trip(data: bytes, line_end: str, padded: bool) -> None:
    """Base64 may have line breaks, as in mail, and may lack padding."""
    text = encode_base64(data)
    assert text == b64(data)
    lines = line_end.join(text[at : at + 76] for at in range(0, len(text), 76))
    assert decode_base64(lines if padded else lines.rstrip("=")) == data


@pytest.mark.parametrize("size", [SLICE_CHARS // 4 * 3 - 1, SLICE_CHARS // 4 * 3, SLICE_CHARS // 4 * 3 + 1])
def test_base64_in_slices(size: int) -> None:
    """Decoding in slices gives the same result. Padding in the middle is refused there, too."""
    data = (bytes(range(256)) * (size // 256 + 1))[:size]
    text = encode_base64(data)
    assert text == b64(data)
    assert decode_base64(text) == data
    with pytest.raises(InvalidRequest):
        decode_base64(text[: SLICE_CHARS - 100] + "=" + text[SLICE_CHARS - 99 :])


def test_the_same_file() -> None:
    """Files are compared by their bytes: as data, as a data: URL, or at a URL under any mount path."""
    (stored,) = DETACHER.detach(message(part(LONG)))[0]["parts"]
    (elsewhere,) = Detacher("a b/c", "", 10, 100).detach(message(part(LONG)))[0]["parts"]
    absolute = url_part("https://host.example" + elsewhere["source"]["value"], mimeType="image/png")
    as_url = url_part(f"data:image/png;base64,{b64(LONG)}")
    same = [stored, elsewhere, absolute, part(LONG), as_url]
    for one in same:
        for other in same:
            assert same_parts([one], [other]), (one, other)
    others = [part(LONG + b"y"), part(LONG, "image/gif"), part("!"), url_part("https://host.example/x"), {"type": "x"}]
    for one in same:
        for other in others:
            assert not same_parts([one], [other]), (one, other)
            assert not same_parts([one, other], [one])
    assert not same_parts([stored], None)


@pytest.mark.parametrize(
    "url",
    [
        "https://example.org/x.png",
        "/api/chat-artifact?id=s",
        "/api/chat-artifact?id=s&artifact=abc",
        f"/api/chat-artifact?id=s&id=t&artifact={'0' * 64}",
        f"/api/chat-artifact/x?id=s&artifact={'0' * 64}",
        f"https://[/api/chat-artifact?id=s&artifact={'0' * 64}",
        "/api/chat-artifact?" + "&" * 20 + "x=1" * 20 + "&x=1" * 20,
        5,
    ],
)
def test_no_artifact(url: Any) -> None:
    """Similar URLs are not taken for the URL of an artifact."""
    assert artifact_in({"type": "url", "value": url}) is None
    assert artifact_in(url) is None
