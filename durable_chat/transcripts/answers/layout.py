"""
The messages of an answer: which one each chunk belongs to, and the chunks that start, continue and end their text.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import dataclass
from typing import Any

from durable_chat.transcripts import chunks
from durable_chat.transcripts.answers.shapes import Shape
from durable_chat.transcripts.chunks import Chunk, merged_metadata


@dataclass(slots=True)
class _Alias:
    """The message that some of the model's ids refer to. A split changes it for all of these ids at once."""

    message_id: str


class Layout:
    """
    The messages of one run. State: the current message, and whether it was opened before the model named it
    (`_nameless`); the message of each of the model's ids, and the alias of each message; the `shapes` of the messages,
    in their order; those with open text; the steps that wait for a message (None: dropped), and their places by name.
    """

    def __init__(self, new_id: Callable[[], str], now_ms: Callable[[], int], known_ids: Container[str]) -> None:
        self.shapes: dict[str, Shape] = {}
        self._new_id = new_id
        self._now_ms = now_ms
        self._known_ids = known_ids
        self._current: str | None = None
        self._nameless = False
        self._ids: dict[str, _Alias] = {}
        self._aliases: dict[str, _Alias] = {}
        self._open: dict[str, None] = {}
        self._steps: list[Chunk | None] = []
        self._step_places: dict[str | None, list[int]] = {}

    @property
    def current_shape(self) -> Shape | None:
        return None if self._current is None else self.shapes[self._current]

    def going_on(self, name: str | None) -> str | None:
        """Return the message that one more delta continues, if the text of that message is still open."""
        home = self._current
        if home is None or home not in self._open or not self.shapes[home].text_last:
            return None
        if name is not None:
            alias = self._ids.get(name)
            if alias is None or alias.message_id != home:
                return None
            self._nameless = False
        return home

    def enter(self, name: str | None, template: Chunk | None = None) -> tuple[str, list[Chunk]]:
        """
        Make the message for the model's id `name` (None: the current one) current; return it and the chunks that open
        it. A current message opened for reasoning or a tool call, or with only thinking, takes the first id the model
        gives. Current clients merge such thinking into the next message when they get a snapshot.
        """
        home = self._home_of(name)
        if home is None and name is not None and self._current is not None:
            goes_on = self._nameless or self.shapes[self._current].only_thought
            home = self._current if goes_on else None
        if home is None:
            taken = name is None or name in self.shapes or name in self._known_ids or not chunks.is_id(name)
            home = self._new_id() if taken or name is None else name
        if name is not None:
            self._ids[name] = self._aliases.setdefault(home, _Alias(home))
        self._nameless = name is None and (self._nameless or home != self._current)
        self._current = home
        return home, self._begin(home, template)

    def leave(self) -> None:
        """Let the next chunk start a new message, unless the current one contains only thinking."""
        if self._current is not None and not self.shapes[self._current].only_thought:
            self._current, self._nameless = None, False

    def join(self) -> None:
        """Let the current message take the next id that the model gives."""
        self._nameless = self._current is not None

    def add_text(self, message_id: str, delta: str) -> tuple[str, list[Chunk], str]:
        """
        Return the message that takes more text of this message, the chunks before the text, and the text to write now.
        """
        made: list[Chunk] = []
        if self.shapes[message_id].would_repeat:
            message_id, made = self._split(message_id)
        starts_again = self.shapes[message_id].starts_again
        delta = self.shapes[message_id].add_text(delta)
        if not delta:
            return message_id, made, ""
        if starts_again:
            made += self.end_texts()
        return message_id, made + self.reopen(message_id), delta

    def begin_new(self) -> list[Chunk]:
        """Start a message that the model has not asked for."""
        return self._begin(self._new_id())

    def end_text(self, name: str | None) -> str | None:
        """End the text of the message for the model's id. Return the message, or None if it has no open text."""
        home = self._home_of(name)
        if home is None or home not in self._open:
            return None
        del self._open[home]
        return home

    def end_texts(self) -> list[Chunk]:
        made = [chunks.text_end(message_id, timestamp=self._now_ms()) for message_id in self._open]
        self._open.clear()
        return made

    def reopen(self, message_id: str) -> list[Chunk]:
        """Restart a message whose text has ended, to append more text. Clients treat it as the same message."""
        if message_id in self._open:
            return []
        made = self.end_texts()
        self._open[message_id] = None
        return [*made, chunks.text_restart(message_id, timestamp=self._now_ms())]

    def restart_last(self) -> list[Chunk]:
        """Start the last message again, if there is one."""
        if not self.shapes:
            return []
        message_id = next(reversed(self.shapes))
        self._open[message_id] = None
        return [chunks.text_restart(message_id, timestamp=self._now_ms())]

    def hold_step(self, step: Chunk) -> None:
        """Keep the start of a step until a message starts."""
        self._steps.append(step)
        self._step_places.setdefault(_step_name(step), []).append(len(self._steps) - 1)

    def drop_step(self, end: Chunk) -> None:
        """Drop the step that this is the end of, if it still waits for a message."""
        for place in self._step_places.pop(_step_name(end), ()):
            self._steps[place] = None

    def _home_of(self, name: str | None) -> str | None:
        if name is None:
            return self._current
        alias = self._ids.get(name)
        return None if alias is None else alias.message_id

    def _begin(self, message_id: str, template: Chunk | None = None) -> list[Chunk]:
        """Start the message, unless it has started and the model adds no metadata."""
        metadata = (template or {}).get("metadata")
        if message_id in self.shapes:
            return self._restated(message_id, metadata) if metadata else []
        made = self.end_texts()
        self.shapes[message_id] = Shape()
        self._open[message_id] = None
        start = chunks.text_start(message_id, timestamp=chunks.timestamp_of(template) or self._now_ms())
        start["metadata"] = merged_metadata(start["metadata"], metadata)
        steps = [step for step in self._steps if step is not None]
        self._steps.clear()
        self._step_places.clear()
        self.shapes[message_id].stepped = bool(steps)
        return [*made, start, *steps]

    def _split(self, message_id: str) -> tuple[str, list[Chunk]]:
        """Start another message and map the model's ids of the previous message to it."""
        self._current = self._new_id()
        if (alias := self._aliases.pop(message_id, None)) is not None:
            alias.message_id = self._current
            self._aliases[self._current] = alias
        return self._current, self._begin(self._current)

    def _restated(self, message_id: str, metadata: Any) -> list[Chunk]:
        """Start the message again, because the model added metadata."""
        made = [] if message_id in self._open else self.end_texts()
        self._open[message_id] = None
        return [*made, chunks.text_restart(message_id, timestamp=self._now_ms()) | {"metadata": metadata}]


def _step_name(chunk: Chunk) -> str | None:
    name = chunk.get("stepName")
    return name if isinstance(name, str) else None
