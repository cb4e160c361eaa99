"""
The texts and options of the page, which an application may set, and their insertion into the page's HTML.

Every value is text and is escaped, so none becomes markup and the page's security policy need not change.
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from durable_chat.config.kinds import SUGGESTIONS_MAX, TEXT_CHARS_MAX
from durable_chat.config.settings import Settings
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
    The texts and options of the page.

    - `title`: above the list of chats and in the browser's tab. Default: DURABLE_CHAT_TITLE.
    - `heading`, `intro`: in an empty chat.
    - `placeholder`: in the message field.
    - `suggestions`: in an empty chat. Default: DURABLE_CHAT_SUGGESTIONS.
    - `lang`: the page's language.
    - `attachments`: whether there is a button for files.
    - `ai_key`: whether there are settings in which users may enter their own key.

    Raises StartError for an invalid text.
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
    """Return the page's HTML with its texts. All marks are replaced in one pass, so a text may look like a mark."""
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
