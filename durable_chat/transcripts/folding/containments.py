"""
The last resort for unexpected exceptions while folding: skip the chunk, and keep the session readable.

This should never happen: input is validated, and a fold accepts any JSON. Each case is therefore counted and logged. In
this project's own tests the exception is raised.
"""

from __future__ import annotations

import logging

import durable_chat.metrics as metrics

RAISES = False
"""Whether to raise contained exceptions. The tests set it; otherwise they would not notice a defect."""

CONTAINED = "could not fold a chunk of type %s; skipping it"

log = logging.getLogger(__name__)


def contain(error: Exception, kind: str) -> None:
    """Handle an exception that folding a chunk raised."""
    if RAISES:
        raise error
    metrics.chunks_contained.add()
    log.error(CONTAINED, kind, exc_info=error)
