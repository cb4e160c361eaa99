"""Names of files: whatever a part contains, the name that is shown, sent and saved is valid."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable_chat.transcripts.attachments import Detacher, artifact_in
from durable_chat.transcripts.file_names import NAME_BYTES_MAX, clean_name, disposition, name_of

PNG = "iVBORw0KGgo="


@pytest.mark.parametrize(
    ("part", "name"),
    [
        ({"metadata": {"filename": "a.pdf"}}, "a.pdf"),
        ({"metadata": {"name": "a.pdf"}}, "a.pdf"),
        ({"filename": "a.pdf"}, "a.pdf"),
        ({"metadata": {"filename": 5}, "name": "b.pdf"}, "b.pdf"),
        ({"metadata": ["a.pdf"]}, None),
        ({"metadata": {"filename": "../../etc/passwd"}}, "passwd"),
        ({"metadata": {"filename": "C:\\files\\a.txt"}}, "a.txt"),
        ({"metadata": {"filename": "a\r\nSet-Cookie: x\x00.txt"}}, "aSet-Cookie: x.txt"),
        ({"metadata": {"filename": "invoice\u202efdp.exe"}}, "invoicefdp.exe"),
        ({"metadata": {"filename": " .. "}}, None),
        ({}, None),
    ],
    ids=str,
)
def test_name_of(part: dict[str, Any], name: str | None) -> None:
    """The first field with a name counts. Paths, control characters and direction marks are removed."""
    assert name_of(part) == name


@given(st.text(max_size=2_000))
def test_any_text_is_a_header(text: str) -> None:
    """A name fits into a header and is read back unchanged."""
    name = clean_name(text)
    if name is None:
        return
    assert 0 < len(name.encode()) <= NAME_BYTES_MAX and clean_name(name) is not None
    header = disposition("attachment", name)
    assert header.isascii() and header.isprintable()
    plain, extended, encoded = header.partition("; filename*=UTF-8''")
    assert plain.startswith('attachment; filename="') and plain.endswith('"')
    assert (unquote(encoded) if extended else plain[len('attachment; filename="') : -1]) == name


def test_a_long_name_keeps_its_suffix() -> None:
    """The name is cut before its suffix, and never inside a character."""
    name = clean_name(f"{'ü' * 300}.pdf")
    assert name is not None and name.endswith("ü.pdf") and len(name.encode()) <= NAME_BYTES_MAX


def test_the_address_of_an_artifact_carries_the_name() -> None:
    """A URL with a name refers to the same artifact. A URL without a name is unchanged."""
    detacher = Detacher("s", min_bytes=0)
    source = {"type": "data", "value": PNG, "mimeType": "image/png"}
    part = {"type": "image", "source": source, "metadata": {"filename": "a&b=c.png"}}
    message, files = detacher.detach({"parts": [part, {"type": "image", "source": source}]})
    named, plain = (made["source"]["value"] for made in message["parts"])
    assert parse_qs(urlsplit(named).query)["name"] == ["a&b=c.png"] and "name=" not in plain
    assert message["parts"][0]["metadata"] == {"filename": "a&b=c.png"}
    assert (
        artifact_in(message["parts"][0]["source"]) == artifact_in(message["parts"][1]["source"]) == ("s", files[0].id)
    )
