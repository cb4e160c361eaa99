"""
The demo's pictures: PNG files that show the prompt.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import uuid
import zlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import ClassVar

from durable_chat.generations.demo.fonts import HEIGHT, WIDTH, glyph, wrap
from durable_chat.generations.inputs import ImageInput
from durable_chat.generations.limits import ImageLimits
from durable_chat.generations.media import Media
from durable_chat.generations.results import GeneratedImage, ImageResult, Progress
from durable_chat.models.base import ProviderError

SIZES = ("256x256", "512x512", "1024x1024", "1024x1536", "1536x1024", "1024x1792", "1792x1024")
SIZE_DEFAULT = "1024x1024"
COLUMNS = 24
"""Characters of a line. The letters are as large as that allows."""

STEPS = 4
"""Reports of progress for each picture."""

_SHADES = 255
_INK = 255
"""The palette: shades of the background, from the top to the bottom, and the color of the letters."""


@dataclass(frozen=True, slots=True)
class DemoImages:
    """
    Draws pictures that show the prompt. Each takes `delay_s` seconds and reports progress. A prompt with the word
    `fail` fails halfway.
    """

    delay_s: float = 1.0
    model: ClassVar[str] = "demo"
    provider: ClassVar[str] = "demo"
    limits: ClassVar[ImageLimits] = ImageLimits(sizes=SIZES, images_max=4, prompt_chars_max=4000)

    async def generate(self, request: ImageInput, /) -> AsyncIterator[Progress | ImageResult]:
        width, height = map(int, (request.size or SIZE_DEFAULT).split("x"))
        pictures: list[GeneratedImage] = []
        steps = STEPS * request.count
        for step in range(1, steps + 1):
            await asyncio.sleep(self.delay_s / STEPS)
            if should_fail(request.prompt) and step > steps // 2:
                raise ProviderError("The demo failed halfway, because the prompt said so.", "demo_failure")
            if step % STEPS == 0:
                data = await asyncio.to_thread(draw, request.prompt, width, height, len(pictures))
                pictures.append(GeneratedImage(Media(data, "image/png")))
            yield Progress(round(100 * step / steps), f"Picture {(step - 1) // STEPS + 1} of {request.count}")
        yield ImageResult(f"img-{uuid.uuid4().hex}", self.model, tuple(pictures))


def should_fail(prompt: str) -> bool:
    return re.search(r"\bfail\b", prompt.lower()) is not None


def draw(prompt: str, width: int, height: int, number: int = 0) -> bytes:
    """Return a PNG file: the prompt on a background whose color depends on it and on the picture's number."""
    scale = max(1, width // (COLUMNS * (WIDTH + 1)))
    columns = (width - 2 * scale) // (scale * (WIDTH + 1))
    pitch = scale * (HEIGHT + 3)
    lines = wrap(prompt, columns, max(1, (height - pitch) // pitch))
    top = max(0, (height - pitch * len(lines)) // 2)
    rows, pattern = [], b""
    for y in range(height):
        at, inside = divmod(y - top, pitch)
        shade = y * _SHADES // height
        drawn = bytes((shade,)) * width
        if 0 <= at < len(lines) and inside < scale * HEIGHT:
            if inside % scale == 0:
                pattern = _dots(lines[at], inside // scale, scale, width)
            drawn = pattern.replace(b"\x00", bytes((shade,)))
        rows.append(b"\x00" + drawn)
    return _png(width, height, _palette(prompt, number), b"".join(rows))


def _dots(line: str, row: int, scale: int, width: int) -> bytes:
    """Return one row of dots of a line of text, in the middle: ink, and 0 for the background."""
    bits = "".join(f"{glyph(character)[row]:0{WIDTH}b}0" for character in line)
    dots = b"".join((bytes((_INK,)) if bit == "1" else b"\x00") * scale for bit in bits)
    return dots.center(width, b"\x00")[:width]


def _palette(prompt: str, number: int) -> bytes:
    """Return 255 shades between two colors, and white for the letters."""
    seed = hashlib.sha256(f"{number} {prompt}".encode("utf-8", "replace")).digest()
    first, last = [value // 3 for value in seed[:3]], [64 + value // 3 for value in seed[3:6]]
    shades = (a + (b - a) * step // _SHADES for step in range(_SHADES) for a, b in zip(first, last, strict=True))
    return bytes([*shades, 255, 255, 255])


def _png(width: int, height: int, palette: bytes, rows: bytes) -> bytes:
    """Return a PNG file of 8-bit palette pixels (PNG specification, section 11.2)."""
    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes((8, 3, 0, 0, 0))
    parts = ((b"IHDR", header), (b"PLTE", palette), (b"IDAT", zlib.compress(rows, 6)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in parts)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")
