"""Markdown on the page in Chromium: models' text is rendered correctly, and hostile text costs little time."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import expect

from tests.servers import Server
from tests.web.tabs import Tabs, answer, append, said, session_of

WRITTEN = """- [x] done
- [ ] open
  - inside

See [the docs][docs] and <https://example.org/auto>, ![a cat](https://example.org/cat.png) &copy; here[^1].

$x_1 * y_1$ and \\(a*b*c\\)

```python
def f(): return "x"  # why
```

[docs]: https://example.org/docs
[^1]: The note.
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all tests. Each test has its own session."""
    settings = {"DURABLE_CHAT_MODEL": "demo", "DURABLE_CHAT_STORE": "memory://"}
    server = Server(tmp_path_factory.mktemp("markdown"), settings)
    server.start()
    yield server
    server.kill()


def test_what_models_write(server: Server, tabs: Tabs) -> None:
    """The page renders tasks, references, addresses, pictures, entities, footnotes, math and highlighted code."""
    page = tabs.open(server.url)
    append(server, session_of(page), *said("drawn", WRITTEN))
    text = answer(page)
    expect(text.get_by_role("img", name="Done:")).to_have_count(1)
    expect(text.get_by_role("img", name="To do:")).to_have_count(1)
    expect(text.get_by_role("link", name="the docs")).to_have_attribute("href", "https://example.org/docs")
    expect(text.get_by_role("link", name="a cat")).to_have_attribute("href", "https://example.org/cat.png")
    expect(text.get_by_role("link", name="https://example.org/auto")).to_have_attribute("rel", "noopener noreferrer")
    expect(text).to_contain_text("© here")
    expect(text.locator(".math")).to_have_text(["$x_1 * y_1$", r"\(a*b*c\)"])
    expect(text.locator("pre .is-keyword")).to_have_text(["def", "return"])
    expect(text.locator("pre .is-comment")).to_have_text("# why")
    text.get_by_role("button", name="Footnote 1").click()
    expect(text.locator(".footnote")).to_be_focused()
    expect(text.locator(".footnote")).to_contain_text("The note.")
    expect(page.locator(".messages img")).to_have_count(0)


def test_an_answer_that_grows_is_drawn_as_one_that_is_whole(server: Server, tabs: Tabs) -> None:
    """A text that grows letter by letter is drawn like the complete text, including code and late references."""
    page = tabs.open(server.url)
    begin, *_, end = said("grown", "")
    deltas = [{"type": "TEXT_MESSAGE_CONTENT", "messageId": "grown", "delta": char} for char in WRITTEN]
    for at in range(0, len(deltas), 7):
        append(server, session_of(page), *([begin] if at == 0 else []), *deltas[at : at + 7])
    append(server, session_of(page), end)
    expect(answer(page).locator(".footnote")).to_contain_text("The note.")
    grown = answer(page).inner_html()
    append(server, session_of(page), *said("whole", WRITTEN))
    expect(page.locator(".message.assistant")).to_have_count(2)
    expect(answer(page).locator(".footnote")).to_contain_text("The note.")
    assert answer(page).inner_html() == grown


def test_direction(server: Server, tabs: Tabs) -> None:
    """Arabic runs from the right and English from the left, in one message, in the composer and in titles."""
    page = tabs.open(server.url)
    append(server, session_of(page), *said("mixed", "مرحبا بالعالم\n\nHello\n\n- عنصر\n\n```\ncode\n```"))
    expect(answer(page).locator("li")).to_be_visible()
    directions = answer(page).evaluate("text => [...text.children].map(child => getComputedStyle(child).direction)")
    assert directions == ["rtl", "ltr", "rtl", "ltr"]
    field = page.get_by_label("Message", exact=True)
    field.fill("نص")
    assert field.evaluate("field => getComputedStyle(field).direction") == "rtl"
    page.keyboard.press("Enter")
    body = page.locator(".message.user .plain")
    expect(body).to_have_text("نص")
    for box in (body, page.locator("#title"), page.locator("#sessions a")):
        assert box.evaluate("box => getComputedStyle(box).direction") == "rtl"


def test_hostile_text_freezes_no_tab(server: Server, tabs: Tabs) -> None:
    """Text designed to be slow is parsed as fast as any other (`growing.test.mjs` measures it)."""
    page = tabs.open(server.url)
    text = "\n\n".join(piece * (60_000 // len(piece)) for piece in ("*a **b ", "[a](b", "![", "`a``", "> - ", "|a"))
    append(server, session_of(page), *said("hostile", f"http://{')' * 60_000}\n\n{text}"))
    append(server, session_of(page), *said("next", "and **on** it goes"))
    expect(answer(page)).to_have_text("and on it goes")
