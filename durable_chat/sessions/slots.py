"""
The sessions of generations. A client names a slot, for example "product-123-hero", and each generation of the slot is a
run of the session `generation-{slot}`.

Who may do something in a slot may do it in the slot's session: authorization is asked for the slot. A chat cannot be
posted to such a session.
"""

from __future__ import annotations

import uuid
from urllib.parse import quote

from durable_chat.errors import InvalidRequest
from durable_chat.sessions.sessions import ID_CHARS_MAX, check_session_id

PREFIX = "generation-"

SLOT_CHARS_MAX = ID_CHARS_MAX - len(PREFIX)
"""The maximum length of a slot's name, so that its session has a valid id."""

SLOT_BYTES_MAX = 1024
"""
The maximum length of a slot's name when it is percent-encoded. The addresses of its files contain it, and clients
accept addresses of at most 2,048 characters.
"""


def session_of_slot(slot: str | None) -> str:
    """Return the session of a slot. Raises InvalidRequest for an invalid name."""
    checked = check_session_id(slot)
    if len(checked) > SLOT_CHARS_MAX or len(quote(checked, safe="")) > SLOT_BYTES_MAX:
        raise InvalidRequest(
            f"A `threadId` of a generation must have at most {SLOT_CHARS_MAX} characters, and {SLOT_BYTES_MAX} bytes "
            "when it is percent-encoded.",
            code="bad_id",
        )
    return PREFIX + checked


def slot_of_session(session_id: str) -> str | None:
    """Return the slot of a generation's session, or None for a chat."""
    return session_id.removeprefix(PREFIX) or None if session_id.startswith(PREFIX) else None


def authorized_as(session_id: str) -> str:
    """Return the id for which the authorization of a session is asked: the slot of a generation, or the chat itself."""
    return slot_of_session(session_id) or session_id


def new_slot() -> str:
    """Return a slot for a generation whose client names none."""
    return f"slot-{uuid.uuid4()}"
