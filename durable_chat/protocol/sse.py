"""Server-sent events as the protocol frames them (PROTOCOL.md 5.8): a `data` event and its `control` event."""

from __future__ import annotations

import re
from base64 import b64encode

from durable_chat.protocol.messages import is_json, is_text

PING = b": ping\n\n"

_LINE_END = re.compile(rb"\r\n|\r|\n")


def encode_data(content_type: str, data: bytes) -> bytes:
    """
    Encode the `data` event of a batch. JSON becomes an array, other text stays as it is, anything else becomes base64.
    Each line is prefixed, so no line end in the payload can end the event.
    """
    if is_json(content_type):
        if b"\n" not in data and b"\r" not in data:
            return b"event: data\ndata:[%b]\n\n" % data
        data = b"[%b]" % data
    elif not is_text(content_type):
        data = b64encode(data)
    return b"event: data\n" + b"".join(map(_line, _LINE_END.split(data))) + b"\n"


def encode_event(name: bytes, data: bytes) -> bytes:
    """Encode a named event with JSON data."""
    if b"\n" not in data and b"\r" not in data:
        return b"event: %b\ndata:%b\n\n" % (name, data)
    return b"event: %b\n%b\n" % (name, b"".join(map(_line, _LINE_END.split(data))))


def _line(text: bytes) -> bytes:
    # A reader drops one space after the colon, so a leading space in the text is doubled.
    return b"data:" + (b" " if text.startswith(b" ") else b"") + text + b"\n"


def encode_control(next_offset: str, cursor: int, *, up_to_date: bool, closed: bool) -> bytes:
    """Encode the `control` event after a batch. A closed stream needs no cursor, because no client reconnects."""
    fields = f'"streamNextOffset":"{next_offset}"'
    if closed:
        fields += ',"streamClosed":true,"upToDate":true'
    else:
        fields += f',"streamCursor":"{cursor}"' + (',"upToDate":true' if up_to_date else "")
    return f"event: control\ndata:{{{fields}}}\n\n".encode()
