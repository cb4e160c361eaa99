"""
What of a message decides how more text is written to it.
"""

from __future__ import annotations

from dataclasses import dataclass

from durable_chat.transcripts import javascript


@dataclass(slots=True)
class Shape:
    """
    What a client needs to know of a message to add text to it: whether a text was begun, whether that is the last
    part, whether a tool call came after it. A client that gets text after a part that is no tool call repeats the text
    before that part, so such a text begins a message of its own. `blank` is white space that waits for words: a client
    takes away an answer of nothing else, and does not say then that it has ended. Whether anything was `thought`, and
    in a step of its own (`stepped`) or in one that clients make of it. Whether it has any
    `other` part.
    """

    blank: str = ""
    text: bool = False
    text_last: bool = False
    after_call: bool = False
    thought: bool = False
    stepped: bool = False
    other: bool = False

    @property
    def would_repeat(self) -> bool:
        return self.text and not self.text_last and not self.after_call

    @property
    def only_thought(self) -> bool:
        return self.stepped and not (self.text or self.after_call or self.other)

    @property
    def starts_again(self) -> bool:
        """Whether older clients must be told that a text begins, or they repeat the one before the tool call."""
        return self.text and self.after_call

    def add_text(self, delta: str) -> str:
        """What of the text to write now."""
        delta, self.blank = self.blank + delta, ""
        if not self.text_last and javascript.is_blank(delta):
            self.blank = delta
            return ""
        self.text = self.text_last = True
        self.after_call = False
        return delta
