"""What a turn begins with: a snapshot in a short session, an echo in a long one."""

from __future__ import annotations

from typing import Any

import pytest

from durable_chat.sessions.running.turns import EchoAsk, Stage, show_messages
from durable_chat.transcripts.chunks import encode_chunk, messages_snapshot
from durable_chat.transcripts.transcript import Transcript
from tests.sessions.serving import Chat, script, serve_chat, types, user

NOW_MS = 1_700_000_000_000
NOW = "2023-11-14T22:13:20.000Z"


def transcript_of(*messages: dict[str, Any]) -> Transcript:
    made = Transcript()
    if messages:
        made.fold(messages_snapshot(messages, timestamp=0))
    return made


def opening(transcript: Transcript, *new: dict[str, Any], bytes_max: int) -> list[dict[str, Any]]:
    return show_messages(transcript, new, Stage(NOW_MS, snapshot_max_bytes=bytes_max))


async def openings(chat: Chat) -> list[list[str]]:
    """The types of the chunks before each run of the session."""
    found: list[list[str]] = [[]]
    inside = False
    for kind in types(await chat.chunks("s")):
        if kind == "RUN_STARTED":
            found.append([])
        inside = kind == "RUN_STARTED" or (inside and kind not in ("RUN_FINISHED", "RUN_ERROR"))
        if not inside and kind not in ("RUN_FINISHED", "RUN_ERROR"):
            found[-1].append(kind)
    return found[:-1]


def test_the_bound_is_that_of_the_snapshot() -> None:
    """A snapshot of exactly the maximum size is written. If the maximum is one byte less, an echo is written."""
    transcript = transcript_of(user("ü" * 1000, "u0"), {**user("Hello.", "a0"), "role": "assistant"})
    (snapshot,) = opening(transcript, user("hi"), bytes_max=1 << 20)
    size = len(encode_chunk(snapshot))
    assert types(opening(transcript, user("hi"), bytes_max=size + 100)) == ["MESSAGES_SNAPSHOT"]
    assert types(opening(transcript, user("hi"), bytes_max=size - 1))[0] == "TEXT_MESSAGE_START"
    assert types(opening(transcript, user("hi"), bytes_max=0))[0] == "TEXT_MESSAGE_START"


def test_a_snapshot_holds_all_and_says_when() -> None:
    """Every message has metadata. The new message has its own time, or the server's time if it has none."""
    transcript = transcript_of(user("before", "u0"))
    (snapshot,) = opening(transcript, user("hi"), bytes_max=1 << 16)
    assert [message["id"] for message in snapshot["messages"]] == ["u0", "u1"]
    assert all(isinstance(message["metadata"], dict) for message in snapshot["messages"])
    assert snapshot["messages"][-1]["createdAt"] == NOW
    sent = "2023-01-01T00:00:00.000Z"
    (snapshot,) = opening(transcript, {**user("hi"), "createdAt": sent}, bytes_max=1 << 16)
    assert snapshot["messages"][-1]["createdAt"] == sent


def test_echo_and_snapshot_fold_to_the_same_message() -> None:
    """Tabs show the same text at the same time for both."""
    folded = []
    for bytes_max in (0, 1 << 16):
        transcript = transcript_of()
        transcript.fold_all(opening(transcript, user("hi"), bytes_max=bytes_max))
        (message,) = transcript.messages()
        folded.append({key: message[key] for key in ("id", "role", "parts", "createdAt")})
    assert folded[0] == folded[1]


def test_a_turn_that_waited_begins_with_a_snapshot() -> None:
    """It corrects the tab that sent during another answer, even in a long session."""
    stage = Stage(NOW_MS, waited=True, snapshot_max_bytes=0)
    assert types(show_messages(transcript_of(), [user("hi")], stage)) == ["MESSAGES_SNAPSHOT"]


def test_no_more_is_looked_at_than_the_bound() -> None:
    """In a long session, only as many messages are measured as fit into the maximum."""

    class Watched(Transcript):
        looked = 0

        def shown(self) -> Any:
            for message in super().shown():
                self.looked += 1
                yield message

    transcript = Watched()
    transcript.fold(messages_snapshot([user("x" * 100, f"h{n}") for n in range(10_000)], timestamp=0))
    opening(transcript, user("hi"), bytes_max=1 << 16)
    assert 0 < transcript.looked < 1 + (1 << 16) // 100


async def test_an_application_shows_no_known_message_again() -> None:
    """Messages of an application that the session already has are left out."""
    transcript = transcript_of(user("one", "u1"))
    asked = EchoAsk((user("one", "u1"), user("two", "u2")))
    (snapshot,) = (await asked.open(transcript, Stage(NOW_MS, snapshot_max_bytes=1 << 16))).chunks
    assert [message["id"] for message in snapshot["messages"]] == ["u1", "u2"]


async def test_every_turn_of_a_short_session_begins_with_a_snapshot() -> None:
    """
    This holds for a new message, an unanswered message and a regenerate. A turn that calls no model begins with
    nothing.
    """
    async with serve_chat(script(), turn_snapshot_max_bytes=1 << 16) as chat:
        await chat.post("s", user("hi"), mode="await")
        await chat.post("s", user("more", "u2"), mode="await")
        await chat.post("s", user("more", "u2"), mode="await")
        assert await openings(chat) == [["MESSAGES_SNAPSHOT"]] * 3
        await chat.post("s", user("more", "u2"), {**user("x", "a"), "role": "assistant"}, mode="await")
        assert (await openings(chat))[3] == []


@pytest.mark.parametrize("bytes_max", [0, 2000])
async def test_a_session_that_grows_long_goes_on_with_echoes(bytes_max: int) -> None:
    """Above the maximum, each turn begins with only its message, and the transcript is the same."""
    async with serve_chat(script(), turn_snapshot_max_bytes=bytes_max) as chat:
        for number in range(8):
            await chat.post("s", user("x" * 100, f"u{number}"), mode="await")
        found = await openings(chat)
        shorts = found.count(["MESSAGES_SNAPSHOT"])
        echo = ["TEXT_MESSAGE_START", "TEXT_MESSAGE_CONTENT", "TEXT_MESSAGE_END"]
        assert found == [["MESSAGES_SNAPSHOT"]] * shorts + [echo] * (8 - shorts)
        assert (0 < shorts < 8) == bool(bytes_max)
        assert len((await chat.snapshot("s"))["messages"]) == 16
