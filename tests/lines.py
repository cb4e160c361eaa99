"""The lines of a response as they come. Only CR and LF end a line of SSE; httpx's own splitter cuts at U+2028 and U+0085, too."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import httpx


def lines_of(answer: httpx.Response) -> Iterator[str]:
    rest = b""
    for piece in answer.iter_bytes():
        *lines, rest = (rest + piece).split(b"\n")
        yield from (line.decode() for line in lines)
    if rest:
        yield rest.decode()


async def alines_of(answer: httpx.Response) -> AsyncIterator[str]:
    rest = b""
    async for piece in answer.aiter_bytes():
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            yield line.decode()
    if rest:
        yield rest.decode()
