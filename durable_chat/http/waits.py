"""How long a client may take for what, before its connection is for others."""

from __future__ import annotations

from dataclasses import dataclass

IDLE_WAIT_S = 75.0
"""How long a connection is kept without a request: longer than the usual proxy's 60 s, which would meet a closed one."""
READ_WAIT_S = 60.0
"""How long a request may stop in the middle."""
WRITE_WAIT_S = 60.0
"""How long a client may read nothing while there is something for it; its place is kept in the store, not here."""
HEAD_WAIT_S = 30.0
"""From the first byte of a request until its last header: a head is a few packets, on the slowest line too."""
BODY_WAIT_S = 60.0
"""For a body of any length, beside the time that its bytes give it."""
BODY_BYTES_PER_S_MIN = 4096
"""Each so many bytes of a body that have come give it another second: a line slower than that sends no files."""
LINGER_S = 2.0
"""How long a client has to read why it is refused."""


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
        """How often to look, so that none of them is missed by what begins after a look."""
        return min(self.head_s, self.body_s, self.read_s)

    def enough_s(self, body_bytes: int) -> float:
        """For a body of which so much has come."""
        return self.body_s + body_bytes / self.body_bytes_per_s_min
