"""npm's StreamProcessor in separate processes, to compare with the Python fold and between its versions."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

from durable_chat.transcripts import javascript
from durable_chat.transcripts.chunks import OURS, Chunk, decode_json, encode_json
from durable_chat.transcripts.transcript import Transcript
from tests.node_lines import NodeLines, node_lines

GENERATED = re.compile(r"unnamed-\d+|msg-\d{13}-\w+")

NEWEST = "@tanstack/ai"
OLDER = ("ai-client-0-31/node_modules/@tanstack/ai", "ai-client-0-23/node_modules/@tanstack/ai")
"""Those of the client versions that are tested: 0.54 and 0.44."""


class Folder:
    """A Node.js process that folds sequences."""

    def __init__(self, node: NodeLines) -> None:
        self._node = node

    def fold(self, chunks: Iterable[Chunk]) -> list[dict[str, Any]]:
        """Return the messages after each chunk, and the errors that the processor raised."""
        steps: list[dict[str, Any]] = self._node.ask(list(chunks))
        for before, step in pairwise([{"messages": []}, *steps]):
            step.setdefault("messages", before["messages"])
        return steps


@contextmanager
def node_folder(package: str = NEWEST) -> Iterator[Folder]:
    """Run a folder of one version of @tanstack/ai, named by its place in node_modules."""
    with node_lines("fold.mjs", package) as node:
        yield Folder(node)


def compare(folder: Folder, chunks: list[Chunk]) -> list[dict[str, Any]]:
    """
    Return the messages after the last chunk. After each chunk both folds must be equal. Generated ids are compared by
    their order, times only if the log states them. At chunks that make the npm processor throw, it may differ.
    """
    transcript = Transcript()
    for at, (chunk, step) in enumerate(zip(chunks, folder.fold(chunks), strict=True)):
        transcript.fold(chunk)
        if step["failed"]:
            return transcript.messages()
        ours = transcript.messages()
        theirs = without_times(step["messages"], ours)
        assert normal(without_ends(ours)) == normal(without_ends(theirs)), f"after chunk {at}, {chunk}"
    return transcript.messages()


def without_ends(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """
    Return the messages without the ends of their runs, which only this server records (in `metadata.durableChat`).
    Missing metadata equals empty metadata, which every reader gets.
    """
    made = []
    for message in messages:
        metadata = message.get("metadata")
        if isinstance(metadata, dict):
            rest = {key: value for key, value in metadata.items() if key != OURS}
            message = {key: value for key, value in message.items() if key != "metadata"}
            message |= {"metadata": rest} if rest else {}
        made.append(message)
    return made


def without_times(theirs: list[dict[str, Any]], ours: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the messages without the times that come from their own clock."""
    stated = ["createdAt" in message for message in ours] + [True] * len(theirs)
    return [
        message if known else {key: value for key, value in message.items() if key != "createdAt"}
        for message, known in zip(theirs, stated, strict=False)
    ]


def normal(messages: Iterable[Mapping[str, Any]]) -> Any:
    """Return the messages with generated ids replaced by their order of appearance."""
    text = json.dumps(decode_json(encode_json(list(messages))), sort_keys=True)
    names = {found: f"made-up-{at}" for at, found in enumerate(dict.fromkeys(GENERATED.findall(text)))}
    return json.loads(GENERATED.sub(lambda found: names[found[0]], text))


def final(folder: Folder, chunks: list[Chunk]) -> Any:
    """
    Return the messages after the last chunk, without what versions of the client add themselves: times, and the input
    that 0.44 reads from arguments that are not JSON. That version does not know the signature of a call either.
    """
    messages = folder.fold(chunks)[-1]["messages"] if chunks else []
    return normal(
        {"id": message["id"], "role": message["role"], "parts": [*map(without_guess, message["parts"])]}
        for message in messages
    )


def without_guess(part: Mapping[str, Any]) -> Mapping[str, Any]:
    known, _ = javascript.parse(str(part.get("arguments", "null")))
    part = part if known else {key: value for key, value in part.items() if key != "input"}
    metadata = {key: value for key, value in (part.get("metadata") or {}).items() if key != "thoughtSignature"}
    return {key: value for key, value in part.items() if key != "metadata"} | (
        {"metadata": metadata} if metadata else {}
    )
