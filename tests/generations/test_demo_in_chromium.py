"""Chromium shows the demo's pictures and plays its speech and its videos."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page

from durable_chat import Media
from durable_chat.generations.demo.videos import DURATIONS_S, SIZES
from tests.generations.made import clip, image, spoken


@pytest.fixture(scope="module")
def page(chromium: Browser) -> Iterator[Page]:
    context = chromium.new_context()
    yield context.new_page()
    context.close()


def test_chromium_shows_the_picture(page: Page) -> None:
    """A browser decodes the file."""
    url = Media(image("A red fox", "512x512")[0], "image/png").data_url()
    script = "async url => { const i = new Image(); i.src = url; await i.decode(); return [i.naturalWidth, i.naturalHeight] }"
    assert page.evaluate(script, url) == [512, 512]


def test_chromium_plays_the_speech(page: Page) -> None:
    """A browser plays the file to its end."""
    script = """async url => {
        const audio = new Audio(url);
        await new Promise((done, fail) => { audio.oncanplaythrough = done; audio.onerror = () => fail(audio.error.message) });
        return audio.duration;
    }"""
    assert page.evaluate(script, spoken("Hello.").data_url()) == pytest.approx(0.42, abs=0.01)


PLAY = """async url => {
    const video = document.createElement('video');
    video.muted = true;
    video.src = url;
    await video.play();
    const shown = [];
    const look = () => {
        const canvas = document.createElement('canvas');
        canvas.width = canvas.height = 40;
        const draw = canvas.getContext('2d');
        draw.drawImage(video, 0, 0, 40, 40);
        return draw.getImageData(0, 0, 40, 40).data.join();
    };
    for (const second of [0.5, video.duration / 2 + 0.3, video.duration - 0.3]) {
        video.currentTime = second;
        await new Promise(done => video.onseeked = done);
        shown.push(look());
    }
    video.currentTime = video.duration - 0.2;
    await video.play();
    if (!video.ended) await new Promise(done => video.onended = done);
    return {duration: video.duration, different: new Set(shown).size, error: video.error && video.error.message};
}"""


@pytest.mark.parametrize(("seconds", "size"), [*((each, SIZES[0]) for each in DURATIONS_S), (4, SIZES[1])])
def test_chromium_plays_the_video(page: Page, seconds: int, size: str) -> None:
    """It has the length that was asked, moves, can be searched, and plays to its end."""
    assert page.evaluate(PLAY, clip(seconds, size).data_url()) == {"duration": seconds, "different": 3, "error": None}
