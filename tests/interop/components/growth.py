"""Whether an answer was shown word by word, however long a busy machine takes to look."""

from __future__ import annotations

from playwright.sync_api import Page

WATCH = """selector => {
    window.lengths = new Set()
    const note = () => window.lengths.add([...document.querySelectorAll(selector)].at(-1)?.innerText.length ?? 0)
    new MutationObserver(note).observe(document.body, {subtree: true, childList: true, characterData: true})
}"""
LENGTHS_MIN = 3
"""An answer that is shown at once has two lengths: none, and its own."""


def watch(page: Page, answers: str) -> None:
    """Note each length that the newest of these answers has on the page from now on."""
    page.evaluate(WATCH, answers)


def grew(page: Page) -> bool:
    """Return whether an answer was shown in parts since `watch`."""
    found: bool = page.evaluate("min => window.lengths.size >= min", LENGTHS_MIN)
    return found
