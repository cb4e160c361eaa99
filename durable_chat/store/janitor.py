"""The sweep: delete expired streams, and store sliding TTLs that reads have extended."""

from __future__ import annotations

import asyncio
import logging

from durable_chat.errors import DurableChatError
from durable_chat.store.streams import Streams

SWEEP_S = 1.0
SWEEP_STREAMS_MAX = 500
"""The most streams that one sweep examines. While there are more, the next sweep follows at once."""

log = logging.getLogger(__name__)


async def sweep_forever(streams: Streams) -> None:
    """Sweep until cancelled, or until the store accepts no more writes."""
    while streams.failure is None:
        try:
            await streams.expiry.save_touches()
            swept = await streams.expiry.expire_due(SWEEP_STREAMS_MAX)
        except DurableChatError as error:
            log.warning("a sweep for expired streams stopped early: %s", error.message)
            swept = 0
        if swept < SWEEP_STREAMS_MAX:
            await asyncio.sleep(SWEEP_S)
