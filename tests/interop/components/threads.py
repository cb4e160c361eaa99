"""Actions on assistant-ui's page, and what it shows."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

from playwright.sync_api import Locator, Page, expect

from tests.web.tabs import SHOWN_MAX_MS, words

PICTURE = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
"""A PNG of one pixel."""


def say(page: Page, text: str) -> None:
    page.get_by_label("Message").fill(text)
    page.get_by_role("button", name="Send").click()


def attach(page: Page) -> None:
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Attach").click()
    chooser.value.set_files({"name": "dot.png", "mimeType": "image/png", "buffer": PICTURE})


def answer(page: Page) -> Locator:
    """Return the newest answer."""
    return page.locator('.message[data-role="assistant"]').last


def idle(page: Page, answers: int = 1) -> None:
    """Wait until no answer is running and at least this many answers are shown."""
    expect(page.locator('.message[data-role="assistant"]').nth(answers - 1)).to_be_visible()
    expect(page.locator('[data-running="false"][data-loading="false"]')).to_be_visible()


def wait_for_growth(page: Page) -> None:
    """Wait until the newest answer shows some text and then more."""
    length = 0
    for _ in ("some", "more"):
        page.wait_for_function(
            """length => document.querySelector('[data-running="true"]')
                && [...document.querySelectorAll('.message[data-role="assistant"]')].at(-1)?.innerText.length > length""",
            arg=length,
            timeout=SHOWN_MAX_MS,
        )
        length = len(answer(page).inner_text())


def shown(page: Page) -> list[tuple[str, list[str]]]:
    """Return the text of each shown message, by role. Consecutive answers count as one."""
    return _merged(
        (str(message.get_attribute("data-role")), words(" ".join(message.locator("p").all_inner_texts())))
        for message in page.locator(".message").all()
    )


def texts_of(messages: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    """Return the same for the server's messages."""
    return _merged(
        (
            str(message["role"]),
            words(" ".join(part["content"] for part in message["parts"] if part["type"] == "text")),
        )
        for message in messages
    )


def _merged(found: Any) -> list[tuple[str, list[str]]]:
    made: list[tuple[str, list[str]]] = []
    for role, said in found:
        if made and made[-1][0] == role == "assistant":
            made[-1][1].extend(said)
        else:
            made.append((role, said))
    return made
