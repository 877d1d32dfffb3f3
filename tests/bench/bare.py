"""The sender's own top speed: into a reader that only reads."""

import contextlib
import socket
import threading
import time
from urllib.parse import urlsplit

from tests.bench.sender import Sender

TRIED = 200_000
"""Ticks of the first try, which says how many to send for the second."""


def connected(url: str) -> socket.socket:
    """Through the login conversation, and subscribed."""
    parts = urlsplit(url)
    connection = socket.create_connection((parts.hostname or "", parts.port or 0))
    connection.sendall(
        b"GET /forex HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    for text in (b'{"action":"auth","params":"any"}', b'{"action":"subscribe","params":"C.*"}'):
        connection.sendall(bytes((0x81, 0x80 | len(text))) + bytes(4) + text)  # a mask of zeros changes nothing
    return connection


def _read(connection: socket.socket) -> None:
    room = bytearray(2**20)
    with contextlib.suppress(OSError):
        while connection.recv_into(room):
            pass


def speed(per_frame: int, seconds: float) -> float:
    """Ticks a second, for about so long."""
    with Sender() as sender, connected(sender.url) as connection:
        reading = threading.Thread(target=_read, args=(connection,), daemon=True)
        reading.start()
        sender.subscribed(1)
        found = _timed(sender, TRIED, per_frame)
        found = _timed(sender, max(1, round(found * seconds / TRIED)) * TRIED, per_frame)
        connection.shutdown(socket.SHUT_RDWR)
        reading.join()
    return found


def _timed(sender: Sender, ticks: int, per_frame: int) -> float:
    begun = time.monotonic()
    sender.send(ticks, per_second=None, per_frame=per_frame)
    sender.wait()
    return ticks / (time.monotonic() - begun)
