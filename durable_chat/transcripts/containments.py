"""
The last resort for what a log holds and nobody foresaw: it costs the chunk it is in, and not the session.

Nothing should get here: what comes in is checked, and a fold takes any JSON. So it is counted and logged, and in this
project's own tests it is raised.
"""

from __future__ import annotations

import logging

import durable_chat.metrics as metrics

RAISES = False
"""Whether what gets here is raised. The tests set it, or they would not see that a wall has a hole."""

CONTAINED = "could not fold a chunk of the type %s, which is passed over"

log = logging.getLogger(__name__)


def contain(error: Exception, kind: str) -> None:
    """Take an exception that folding a chunk raised."""
    if RAISES:
        raise error
    metrics.chunks_contained.add()
    log.error(CONTAINED, kind, exc_info=error)
