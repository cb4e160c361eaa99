"""The timeouts of a client connection."""

from __future__ import annotations

from dataclasses import dataclass

IDLE_WAIT_S = 75.0
"""How long an idle connection is kept. Longer than the 60 s of common proxies, so that they do not use a closed one."""
READ_WAIT_S = 60.0
"""How long a request may pause before its end."""
WRITE_WAIT_S = 60.0
"""How long a client may stop reading a response. The client can resume, because its data is in the store."""
HEAD_WAIT_S = 30.0
"""From the first byte of a request to its last header. Headers are a few packets, also on a slow connection."""
BODY_WAIT_S = 60.0
"""The time for a body of any length, before the time that its bytes add."""
BODY_BYTES_PER_S_MIN = 4096
"""Each received 4,096 bytes of a body add a second. A slower connection cannot send files."""
LINGER_S = 2.0
"""How long a client has to read the response to a refused request before the connection is closed."""


@dataclass(frozen=True, slots=True)
class Waits:
    idle_s: float = IDLE_WAIT_S
    read_s: float = READ_WAIT_S
    write_s: float = WRITE_WAIT_S
    head_s: float = HEAD_WAIT_S
    body_s: float = BODY_WAIT_S
    body_bytes_per_s_min: float = BODY_BYTES_PER_S_MIN
    linger_s: float = LINGER_S

    @property
    def look_s(self) -> float:
        """How often to check the timeouts, so that each is noticed in time."""
        return min(self.head_s, self.body_s, self.read_s)

    def enough_s(self, body_bytes: int) -> float:
        """Return the time limit of a body of which `body_bytes` have arrived."""
        return self.body_s + body_bytes / self.body_bytes_per_s_min
