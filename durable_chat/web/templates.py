"""
What the page says and offers, as an application may set it, put into the page's HTML.

Every value is text: it is escaped where it stands, so that none becomes markup, and the page's policy stays as it is.
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from durable_chat.config import SUGGESTIONS_MAX, TEXT_CHARS_MAX, Settings
from durable_chat.errors import StartError

_MARK: Final = re.compile(r"\{\{(\w+)\}\}")

SUGGESTIONS_DEFAULT: Final = (
    "Think about why logs outlive the servers that write them",
    "Use a tool and tell me what came back",
    "Write a long answer, so that I can reload in the middle of it",
)


@dataclass(frozen=True, slots=True)
class Page:
    """
    The texts of the page: `title` above the list of chats and in the browser's tab, `heading`, `intro` and
    `suggestions` in an empty chat, `placeholder` in the composer, `lang` for the page's language. Without `attachments`
    there is no button for files, and without `ai_key` no settings, in which a user may enter a key of their own. A
    title and suggestions that are not given are those of DURABLE_CHAT_TITLE and DURABLE_CHAT_SUGGESTIONS. Raises
    StartError for a text that will not do.
    """

    title: str | None = None
    heading: str = "What would you like to know?"
    intro: str = (
        "Reload, close the tab, lose the network or open this address on another device: the answer goes on, and "
        "nothing is lost."
    )
    placeholder: str = "Write a message"
    suggestions: Sequence[str] | None = None
    lang: str = "en"
    attachments: bool = True
    ai_key: bool = True

    def __post_init__(self) -> None:
        suggestions = self.suggestions or ()
        if isinstance(suggestions, str) or len(suggestions) > SUGGESTIONS_MAX:
            raise StartError(f"suggestions must be a list of at most {SUGGESTIONS_MAX} texts, not {suggestions!r}.")
        for text in (self.title or "", self.heading, self.intro, self.placeholder, self.lang, *suggestions):
            if not isinstance(text, str) or len(text) > TEXT_CHARS_MAX:
                raise StartError(f"A text of the page must have at most {TEXT_CHARS_MAX} characters: {text!r:.100}")


def render(template: str, page: Page, settings: Settings) -> str:
    """The page's HTML with its texts. All marks are replaced in one go: a text that looks like one stays a text."""
    title = page.title if page.title is not None else settings.title
    suggestions = settings.suggestions if page.suggestions is None else page.suggestions
    buttons = (
        f'<button type="button" dir="auto">{html.escape(text)}</button>'
        for text in (SUGGESTIONS_DEFAULT if suggestions is None else suggestions)
    )
    values = {
        "suggestions": "\n          ".join(buttons),
        "no_attachments": "" if page.attachments else " hidden",
        "no_ai_key": "" if page.ai_key else " hidden",
    }
    texts = {
        "title": title,
        "heading": page.heading,
        "intro": page.intro,
        "placeholder": page.placeholder,
        "lang": page.lang,
    }
    values |= {name: html.escape(text) for name, text in texts.items()}
    return _MARK.sub(lambda mark: values[mark[1]], template)
