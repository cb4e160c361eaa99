"""
Track the parts of a message that decide how more text is written to it.
"""

from __future__ import annotations

from dataclasses import dataclass

from durable_chat.transcripts import javascript


@dataclass(slots=True)
class Shape:
    """
    The state of a message that decides how a client adds text to it.

    `text` says whether a text was started, `text_last` whether it is the last part, and `after_call` whether a tool
    call came after it. If text arrives after a part that is not a tool call, clients repeat the earlier text. Such text
    therefore starts a new message.

    `blank` is white space that is held until other text arrives. Clients remove an answer that contains only white
    space, and then do not report that it ended.

    `thought` says whether the message contains thinking. `stepped` says whether that thinking is in a step, either its
    own or one that clients create. `other` says whether the message has any other part.
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
        """Whether a new text must be announced. Otherwise older clients repeat the text before the tool call."""
        return self.text and self.after_call

    def add_text(self, delta: str) -> str:
        """Add a delta and return the text to write now."""
        delta, self.blank = self.blank + delta, ""
        if not self.text_last and javascript.is_blank(delta):
            self.blank = delta
            return ""
        self.text = self.text_last = True
        self.after_call = False
        return delta
