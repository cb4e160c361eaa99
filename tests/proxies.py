"""A proxy of connections that a test can reset, as networks and other proxies do."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator

PIECE_BYTES = 64 * 1024
# SO_LINGER, on, for no time: closing sends a reset instead of an end.
RESET = struct.pack("ii", 1, 0)


class Proxy:
    """
    Passes bytes between whoever connects to `url` and the server at `port`. Mutable state: `_clients`, the connections
    that are open, each with the one to the server.
    """

    def __init__(self, port: int) -> None:
        self.port = port
        self._clients: dict[socket.socket, socket.socket] = {}
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def reset(self) -> int:
        """Resets every connection that is open; how many these were."""
        count = 0
        while self._clients:
            client, server = self._clients.popitem()
            count += 1
            with contextlib.suppress(OSError):
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            # In this order: the end of the server's connection would be passed on as an end.
            _close(client)
            _close(server)
        return count

    def close(self) -> None:
        _close(self._listener)
        self.reset()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                try:
                    server = socket.create_connection(("127.0.0.1", self.port))
                except OSError:
                    client.close()
                    continue
                self._clients[client] = server
                threading.Thread(target=self._ask, args=(client, server), daemon=True).start()
                threading.Thread(target=self._answer, args=(client, server), daemon=True).start()

    def _ask(self, client: socket.socket, server: socket.socket) -> None:
        _pass(client, server)
        _end(server)

    def _answer(self, client: socket.socket, server: socket.socket) -> None:
        _pass(server, client)
        # Whoever takes the connection out says how it ends: one that is being reset must not get a clean end before.
        if self._clients.pop(client, None) is not None:
            _end(client)
            _close(client)
            _close(server)


def _pass(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while piece := source.recv(PIECE_BYTES):
            target.sendall(piece)


def _end(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_WR)


def _close(connection: socket.socket) -> None:
    # Whoever waits for it in another thread is told; closing alone would leave it open until that has ended.
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RD)
    connection.close()


@contextlib.contextmanager
def proxied(port: int) -> Iterator[Proxy]:
    """A proxy before the server at `port`."""
    proxy = Proxy(port)
    try:
        yield proxy
    finally:
        proxy.close()
