"""
Files on the page in Chromium: attached in every way, shown alike in every tab, with a token too, and never executed.
"""

from __future__ import annotations

import base64
import io
import random
import struct
import time
import wave
import zlib
from pathlib import Path
from typing import Any

from playwright.sync_api import FilePayload, Locator, Page, expect

from durable_chat.config.settings import ACTIONS
from durable_chat.http.tokens import issue
from tests.conftest import Serve
from tests.servers import Server
from tests.web.tabs import Tabs, address, answer, append, session_of, snapshot, wait_done, write

SECRET = "a-secret-of-the-tests-long-enough"
NOISE = random.Random(5)
SIDE = 240


def png() -> bytes:
    """Return a picture of noise, which does not compress: about 170 kB."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + NOISE.randbytes(SIDE * 3) for _ in range(SIDE))
    head = struct.pack(">IIBBBBB", SIDE, SIDE, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def sound() -> bytes:
    """Return two seconds of noise."""
    made = io.BytesIO()
    with wave.open(made, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(22_050)
        writer.writeframes(NOISE.randbytes(88_200))
    return made.getvalue()


PICTURE, SOUND = png(), sound()
PDF = b"%PDF-1.7\n" + NOISE.randbytes(100_000)


def pick(page: Page, *files: tuple[str, str, bytes]) -> None:
    payloads = [FilePayload(name=name, mimeType=kind, buffer=data) for name, kind, data in files]
    page.locator("#files").set_input_files(payloads)


def attached(page: Page) -> Locator:
    return page.get_by_role("list", name="Attached files").get_by_role("listitem")


def picture(page: Page) -> Locator:
    return page.locator(".message.user .media img")


def expect_picture(page: Page) -> None:
    """Check that the picture is there and has been decoded."""
    expect(picture(page)).to_have_count(1)
    page.wait_for_function(f"() => document.querySelector('.message.user .media img')?.naturalWidth === {SIDE}")


def parts(server: Server, session: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = snapshot(server, session)["messages"][0]["parts"]
    return found


def test_a_picture_in_every_tab(server: Server, tabs: Tabs) -> None:
    """
    A picture that is picked and sent with text is shown to the sender, to a watching tab, and to both after a reload.
    """
    page = tabs.open(server.url)
    other = tabs.open(address(server, session_of(page)))
    pick(page, ("noise.png", "image/png", PICTURE))
    expect(attached(page)).to_have_count(1)
    expect(attached(page)).to_contain_text("noise.png")
    write(page, "what is this?")
    expect(attached(page)).to_have_count(0)
    for tab in (page, other):
        expect_picture(tab)
        expect(answer(tab)).to_contain_text("You attached image (image/png, ")
        wait_done(tab)
    for tab in (page, other):
        tab.reload()
        expect_picture(tab)
        expect(picture(tab)).to_have_attribute(
            "src", server.url + parts(server, session_of(page))[0]["source"]["value"]
        )
    assert parts(server, session_of(page))[1] == {"type": "text", "content": "what is this?"}


def test_a_picture_without_a_word(server: Server, tabs: Tabs) -> None:
    """A message may have files only. The chat is listed under the file's name."""
    page = tabs.open(server.url)
    expect(page.locator("#send")).to_be_disabled()
    pick(page, ("noise.png", "image/png", PICTURE))
    expect(page.locator("#send")).to_be_enabled()
    page.locator("#send").click()
    expect_picture(page)
    expect(answer(page)).to_contain_text("You attached image")
    expect(page.locator("#sessions")).to_contain_text("noise.png")
    assert len(parts(server, session_of(page))) == 1


def test_sound_and_documents(server: Server, tabs: Tabs, tmp_path: Path) -> None:
    """Sound can be played and sought in, and a document is saved completely."""
    page = tabs.open(server.url)
    pick(page, ("noise.wav", "audio/wav", SOUND), ("paper.pdf", "application/pdf", PDF), ("short.md", "", b"# Hi"))
    expect(attached(page)).to_have_count(3)
    write(page, "listen")
    wait_done(page)
    page.reload()
    expect(page.locator(".media audio")).to_have_count(1)
    page.wait_for_function("() => document.querySelector('.media audio')?.duration > 1.9")
    page.evaluate("() => { document.querySelector('.media audio').currentTime = 1.5 }")
    page.wait_for_function("() => !document.querySelector('.media audio').seeking")
    expect(page.locator(".media figcaption")).to_have_text("noise.wav")
    for name, data in (("paper.pdf", PDF), ("short.md", b"# Hi")):
        with page.expect_download() as download:
            page.get_by_role("link", name=f"Save {name}").click()
        assert download.value.suggested_filename == name
        download.value.save_as(tmp_path / "saved")
        assert (tmp_path / "saved").read_bytes() == data


NAMES = ("Bericht über Käse (2).pdf", 'a "b" %41.txt', "报告.csv", "plain.bin")


def test_names_are_kept(server: Server, tabs: Tabs, tmp_path: Path) -> None:
    """A file is shown and saved under its own name, long or short, in every tab and after a reload."""
    page = tabs.open(server.url)
    other = tabs.open(address(server, session_of(page)))
    pick(
        page,
        *((name, "", NOISE.randbytes(size)) for name, size in zip(NAMES, (90_000, 80_000, 100, 70_000), strict=True)),
    )
    expect(attached(page)).to_have_count(len(NAMES))
    write(page, "keep them")
    wait_done(page)
    page.reload()
    for tab in (page, other):
        for name in NAMES:
            with tab.expect_download() as download:
                tab.get_by_role("link", name=f"Save {name}", exact=True).click()
            # a file name that some systems do not allow
            assert download.value.suggested_filename == name.replace('"', "_")
    source = parts(server, session_of(page))[0]
    assert source["metadata"] == {"filename": NAMES[0]}


def test_with_a_token(serve: Serve, tabs: Tabs, tmp_path: Path) -> None:
    """The page sends its token for every file. The address alone gives no access."""
    server = serve(DURABLE_CHAT_TOKEN_SECRET=SECRET)
    token = issue(SECRET, "s", ACTIONS, now_s=time.time(), ttl_s=600)
    page = tabs.open(f"{server.url}/?id=s#token={token}")
    pick(page, ("noise.png", "image/png", PICTURE), ("paper.pdf", "application/pdf", PDF))
    expect(attached(page)).to_have_count(2)
    write(page, "look")
    wait_done(page)
    other = tabs.open(f"{server.url}/?id=s#token={token}")
    for tab in (page, other):
        expect_picture(tab)
        with tab.expect_download() as download:
            tab.get_by_role("link", name="Save paper.pdf").click()
        download.value.save_as(tmp_path / "saved")
        assert (tmp_path / "saved").read_bytes() == PDF


def test_pasted_and_dropped(server: Server, tabs: Tabs) -> None:
    """A picture can be pasted and files can be dropped on the page. Text is pasted as usual."""
    page = tabs.open(server.url)
    script = """([type, target, data]) => {
        const bytes = Uint8Array.from(atob(data), (char) => char.charCodeAt(0));
        const transfer = new DataTransfer();
        transfer.items.add(new File([bytes], 'noise.png', { type: 'image/png' }));
        const fields = { bubbles: true, cancelable: true };
        const event = type === 'paste' ? new ClipboardEvent(type, { ...fields, clipboardData: transfer })
                                       : new DragEvent(type, { ...fields, dataTransfer: transfer });
        return !document.querySelector(target).dispatchEvent(event);
    }"""
    data = base64.b64encode(PICTURE).decode()
    assert page.evaluate(script, ["paste", "#text", data])
    expect(attached(page)).to_have_count(1)
    assert page.evaluate(script, ["dragover", "#messages", data])
    expect(page.locator("#main")).to_have_attribute("data-drop", "")
    assert page.evaluate(script, ["drop", "#messages", data])
    expect(page.locator("#main")).not_to_have_attribute("data-drop", "")
    expect(attached(page)).to_have_count(2)
    for target in ("#sidebar", "html"):
        assert page.evaluate(script, ["dragover", target, data])
        assert page.evaluate(script, ["drop", target, data])
    expect(attached(page)).to_have_count(4)
    for _ in range(3):
        attached(page).first.get_by_role("button", name="Remove").click()
    expect(attached(page)).to_have_count(1)
    page.locator("#send").click()
    expect_picture(page)
    expect(picture(page)).to_have_attribute("alt", "noise.png")


def test_trying_again(server: Server, tabs: Tabs) -> None:
    """A message whose answer failed is retried with the same file."""
    page = tabs.open(server.url)
    pick(page, ("noise.png", "image/png", PICTURE))
    write(page, "fail")
    wait_done(page)
    failed = page.locator(".message.assistant").get_attribute("data-id")
    page.get_by_role("button", name="Try again").click()
    expect(page.locator(f'[data-id="{failed}"]')).to_have_count(0)
    expect(page.locator(".message.assistant")).to_have_count(1)
    wait_done(page)
    expect(page.get_by_role("button", name="Try again")).to_be_visible()
    expect_picture(page)
    shown = snapshot(server, session_of(page))["messages"]
    assert [message["role"] for message in shown] == ["user", "assistant"]
    assert shown[0]["parts"][0]["source"]["value"].startswith("/api/chat-artifact?")


def test_limits(server: Server, tabs: Tabs) -> None:
    """Too many or too large files are refused before anything is sent, and the others stay."""
    page = tabs.open(server.url)
    pick(page, *((f"{number}.txt", "text/plain", b"hi") for number in range(9)))
    expect(attached(page)).to_have_count(8)
    expect(page.get_by_role("alert")).to_contain_text("at most 8 files")
    page.locator("#new").click()
    expect(attached(page)).to_have_count(0)
    pick(page, ("large.bin", "", bytes(20 * 1024 * 1024 + 1)), ("small.bin", "", b"x"))
    expect(page.get_by_role("alert")).to_contain_text("“large.bin” is larger than 20 MB.")
    expect(attached(page)).to_have_count(1)


def test_a_server_that_takes_less(serve: Serve, tabs: Tabs) -> None:
    """When the server refuses a file, its error is shown at the message."""
    server = serve(DURABLE_CHAT_ARTIFACT_MAX_BYTES="100000")
    tabs.network_fails = True
    page = tabs.open(server.url)
    pick(page, ("noise.png", "image/png", PICTURE))
    write(page, "look")
    expect(page.locator(".message.user").get_by_role("alert")).to_contain_text("A file may have at most 100000 bytes.")
    assert snapshot(server, session_of(page))["messages"] == []


def test_nothing_runs_and_nothing_is_loaded_from_elsewhere(server: Server, tabs: Tabs, tmp_path: Path) -> None:
    """
    A page or a drawing posted as a file can only be saved. An external picture is a link. A missing file is reported.
    """
    tabs.network_fails = True
    page = tabs.open(server.url)
    evil = b"<svg xmlns='http://www.w3.org/2000/svg'><script>window.ran = true</script></svg>"
    pick(page, ("evil.svg", "image/svg+xml", evil), ("evil.html", "text/html", evil + b" " * 70_000))
    expect(attached(page)).to_have_count(2)
    write(page, "look")
    wait_done(page)
    session = session_of(page)
    elsewhere = {"type": "url", "value": "https://host.example/x.png", "mimeType": "image/png"}
    gone = {"type": "url", "value": f"/api/chat-artifact?id={session}&artifact={'0' * 64}", "mimeType": "image/png"}
    code = {"type": "url", "value": "javascript:window.ran=true", "mimeType": "image/png"}
    images = [{"type": "image", "source": source} for source in (elsewhere, gone, code)]
    message = {"id": "x", "role": "user", "parts": images, "metadata": {}}
    shown = snapshot(server, session)["messages"]
    append(server, session, {"type": "MESSAGES_SNAPSHOT", "messages": [*shown, message]})
    last = page.locator(".message.user").last
    expect(last.get_by_role("link", name="Open the image")).to_have_attribute("href", "https://host.example/x.png")
    expect(last).to_contain_text("The image could not be loaded")
    expect(last).to_contain_text("Attached: image")
    expect(page.locator(".media img")).to_have_count(0)
    with page.expect_download() as download:
        page.get_by_role("link", name="Save evil.html").click()
    download.value.save_as(tmp_path / "saved")
    assert (tmp_path / "saved").read_bytes().startswith(evil)
    assert page.evaluate("() => window.ran") is None
    url = shown[0]["parts"][1]["source"]["value"]
    with page.expect_download():
        page.evaluate("(url) => { location.assign(url) }", url)
    assert page.evaluate("() => window.ran") is None
