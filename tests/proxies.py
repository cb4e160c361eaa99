"""A proxy of connections that a test can reset, as networks and other proxies do."""

from __future__ import annotations

import contextlib
import re
import socket
import struct
import threading
from collections import Counter
from collections.abc import Iterator

PIECE_BYTES = 64 * 1024
# SO_LINGER, on, for no time: closing sends a reset instead of an end.
RESET = struct.pack("ii", 1, 0)
LAST_CHUNK = b"\r\n0\r\n\r\n"


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


class CuttingProxy(Proxy):
    """
    Cuts responses between two chunks, as a request asks for it in its header `x-cut: <name> <frames> <manner>`. `once`
    cuts the first response with this name after so many frames, `reset` does so with a reset, and `each` cuts every
    one. Mutable state besides that of a Proxy: `cuts`, how often each name was cut; `_resetting`, the connections that
    are to be reset.
    """

    def __init__(self, port: int, frame_end: bytes) -> None:
        """A frame ends with `frame_end`."""
        self.cuts: Counter[str] = Counter()
        self._frame_end = frame_end
        self._wanted: dict[socket.socket, tuple[str, int]] = {}
        self._resetting: set[socket.socket] = set()
        super().__init__(port)

    def _ask(self, client: socket.socket, server: socket.socket) -> None:
        head = b""
        with contextlib.suppress(OSError):
            while b"\r\n\r\n" not in head and (piece := client.recv(PIECE_BYTES)):
                head += piece
            if (found := re.search(rb"(?i)\r\nx-cut: (\S+) (\d+) (once|reset|each)\r\n", head)) is not None:
                name, frames, manner = (group.decode() for group in found.groups())
                if manner == "each" or not self.cuts[name]:
                    self._wanted[client] = (name, int(frames))
                    if manner == "reset":
                        self._resetting.add(client)
            server.sendall(head)
        super()._ask(client, server)

    def _answer(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            self._pass_frames(client, server)
        self._wanted.pop(client, None)
        if self._clients.pop(client, None) is None:
            return
        if client in self._resetting:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        else:
            _end(client)
        _close(client)
        _close(server)

    def _pass_frames(self, client: socket.socket, server: socket.socket) -> None:
        while piece := server.recv(PIECE_BYTES):
            name, frames = self._wanted.get(client, ("", -1))
            sent = 0
            while frames > 0 and (end := piece.find(self._frame_end, sent)) >= 0:
                sent, frames = end + len(self._frame_end), frames - 1
            if frames == 0:
                client.sendall(piece[:sent])
                self.cuts[name] += 1
                return
            if name:
                self._wanted[client] = (name, frames)
            client.sendall(piece)
            if piece.endswith(LAST_CHUNK):  # the next request comes on another connection, so that its head is seen
                self._resetting.discard(client)
                return
        self._resetting.discard(client)
