"""Clients of the board's echo service, at the gateway's port."""

import os
import socket
import threading

# Silence, in seconds, after which a client gives up. The board is slow.
PATIENCE = 120


class Stream:
    """One connection that is kept open."""

    def __init__(self, port: int):
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)

    def echo(self, length: int = 1000) -> None:
        """Sends so many random bytes, which must come back as they are."""
        sent = os.urandom(length)
        sender = threading.Thread(target=self._socket.sendall, args=[sent], daemon=True)
        sender.start()
        received = bytearray()
        while len(received) < length:
            piece = self._socket.recv(65536)
            assert piece, f"it ended after {len(received)} of {length} bytes"
            received += piece
        sender.join()
        assert received == sent

    def finish(self) -> None:
        """Says that this was all; the board must say so, too."""
        self._socket.shutdown(socket.SHUT_WR)
        assert self._socket.recv(1) == b""
        self._socket.close()

    def is_cut(self) -> bool:
        """Whether the other side ends it, which is waited for."""
        try:
            return self._socket.recv(1) == b""
        except ConnectionError:
            return True
        finally:
            self._socket.close()


def is_served(port: int) -> bool:
    """Whether a new connection is answered by the board."""
    try:
        stream = Stream(port)
        stream.echo()
        stream.finish()
    except (OSError, AssertionError):
        return False
    return True


def is_refused(port: int) -> bool:
    """Whether a new connection is ended at once, not left waiting."""
    return Stream(port).is_cut()
