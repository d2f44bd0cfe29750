"""Clients of the board's services, at the gateway's ports: bytes that are hashed on both sides."""

import hashlib
import http.client
import mmap
import socket
import threading
from pathlib import Path

PIECE = 64 * 1024

# Silence, in seconds, after which a client gives up. Emulated boards are slow, and a lost link may take a while to be replaced.
PATIENCE = 120


def page(address: tuple[str, int], path: str) -> tuple[int, bytes]:
    """Status and body of one request."""
    connection = http.client.HTTPConnection(*address, timeout=PATIENCE)
    try:
        connection.request("GET", path, headers={"Host": "board"})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def sha256(data) -> str:
    return hashlib.sha256(data).hexdigest()


class Payload:
    """Random bytes that the board has as well."""

    def __init__(self, path: Path):
        with path.open("rb") as file:
            self.bytes = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


class Transfer(threading.Thread):
    """One connection that sends `outgoing`, says that this was all, and takes what comes; begun when it is made."""

    def __init__(self, address: tuple[str, int], outgoing=b""):
        super().__init__(daemon=True)
        self.sent = self.received = 0
        self._digest, self._last = hashlib.sha256(), b""
        self._outgoing = memoryview(outgoing)
        self._error = None
        self._socket = socket.create_connection(address, timeout=PATIENCE)
        self._sender = threading.Thread(target=self._attempt, args=[self._send], daemon=True)
        self._sender.start()
        self.start()

    def run(self):
        self._attempt(self._receive)
        self._sender.join()
        self._socket.close()

    def _attempt(self, work):
        try:
            work()
        except OSError as error:
            self._error = self._error or error

    def _send(self):
        while self.sent < len(self._outgoing):
            self.sent += self._socket.send(self._outgoing[self.sent : self.sent + PIECE])
        self._socket.shutdown(socket.SHUT_WR)

    def _receive(self):
        while piece := self._receive_piece():
            self._digest.update(piece)
            self._last = piece
            self.received += len(piece)

    def _receive_piece(self) -> bytes:
        while True:
            try:
                return self._socket.recv(PIECE)
            except TimeoutError:
                # The answer may come after all has been sent; the sender has its own patience.
                if not self._sender.is_alive():
                    raise

    def progress(self) -> int:
        """Bytes that came so far."""
        if self._error:
            raise self._error
        return self.received

    def error(self) -> OSError | None:
        """How it ended, once it has: None if both sides said that this was all."""
        self.join()
        return self._error

    def received_hash(self) -> str:
        """SHA-256 of all that came, once it has."""
        error = self.error()
        if error:
            raise error
        return self._digest.hexdigest()

    def said(self) -> str:
        """The hash service's answer: SHA-256 of what it got."""
        error = self.error()
        if error:
            raise error
        return self._last.decode().split()[0]
