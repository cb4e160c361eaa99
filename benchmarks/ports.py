"""Ports of 127.0.0.1 that are a server's from before it starts, and while it is down."""

from __future__ import annotations

import os
import socket
import sys
import weakref
from collections.abc import Callable


class HeldPort:
    """
    A port that the system gives to nobody else until `close`, or while this lives. A socket is bound to it and does not
    listen: whoever asks for any port gets another one, as the source of a connection too, and a server that asks for
    this one by its number gets it, since servers set SO_REUSEADDR, as this socket does. Until one listens, connections
    are refused.
    """

    def __init__(self) -> None:
        holder = socket.socket()
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        self.number: int = holder.getsockname()[1]
        self.close: Callable[[], object] = holder.close
        if sys.platform == "linux":
            self.close = weakref.finalize(self, os.close, holder.detach())
        else:
            holder.close()  # elsewhere it would keep the server out as well
