"""
The CUSTOM chunks of generations: TanStack AI's names, and one of this project.
"""

from __future__ import annotations

import time
from typing import Any

from durable_chat.transcripts.chunks import Chunk

RESULT = "generation:result"
PROGRESS = "generation:progress"
JOB_CREATED = "video:job:created"
JOB_STATUS = "video:status"
ORDERING = "durable-chat.video-ordering"
"""Says that a video is about to be ordered. A log that has it and no job id may have an order that nobody knows of."""


def custom(name: str, value: Any) -> Chunk:
    return {"type": "CUSTOM", "name": name, "value": value, "timestamp": now_ms()}


def now_ms() -> int:
    return time.time_ns() // 1_000_000
