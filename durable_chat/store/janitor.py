"""Sweeps the streams: deletes those whose time is up, writes down sliding TTLs that reads have extended."""

from __future__ import annotations

import asyncio
import logging

from durable_chat.errors import DurableChatError
from durable_chat.store.streams import Streams

SWEEP_S = 1.0
SWEEP_STREAMS_MAX = 500
"""Streams deleted in one sweep; the next follows at once while there are more."""

log = logging.getLogger(__name__)


async def sweep_forever(streams: Streams) -> None:
    """Until cancelled, or until the store takes no more writes."""
    while streams.failure is None:
        try:
            await streams.save_touches()
            swept = await streams.expire_due(SWEEP_STREAMS_MAX)
        except DurableChatError as error:
            log.warning("the sweep was cut short: %s", error.message)
            swept = 0
        if swept < SWEEP_STREAMS_MAX:
            await asyncio.sleep(SWEEP_S)
