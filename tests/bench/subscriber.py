"""A NATS subscriber that notes when each message was in its hands: a process of its own, and the handle to it.

It counts messages and decodes one of each read, so that it costs next to nothing and is never the one who is late. A
client library adds what it costs itself.
"""

import contextlib
import json
import os
import select
import socket
import sys
import time
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import attrs

from tests.bench.sender import Child, Marks

MARK: Final = b"MSG ticks."
"""Begins a message, with headers or without; no tick holds it."""


@attrs.frozen
class Heard:
    """``marks`` has one entry a read; ``seqs`` and ``bids`` are of the last tick of each."""

    marks: Marks
    seqs: Sequence[int]
    bids: Sequence[float]


class Subscriber(Child):
    """The handle. It listens from the start on."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        super().__init__("tests.bench.subscriber", parts.hostname, parts.port)
        self._unanswered += 1
        self.answer()

    def count(self) -> int:
        """Messages since the start."""
        return int(self.ask(do="count")["count"])

    def heard(self, folder: Path) -> Heard:
        """Since the last time."""
        path = folder / f"heard-{time.monotonic_ns()}"
        self.ask(do="marks", path=str(path))
        seqs, bids = (
            array("q", path.with_suffix(".seqs").read_bytes()),
            array("d", path.with_suffix(".bids").read_bytes()),
        )
        for suffix in (".seqs", ".bids"):
            path.with_suffix(suffix).unlink()
        return Heard(Marks.read(path), seqs, bids)


# The process --------------------------------------------------------------------------------------------------------


def whole(data: bytes) -> tuple[int, bytes, bytes]:
    """How many whole messages this begins with, the last one's payload, and what follows them."""
    last = data.rfind(MARK)
    if last < 0:
        return 0, b"", data[-len(MARK) :]
    line, found, rest = data[last:].partition(b"\r\n")
    sizes = [int(word) for word in line.split()[3:]] if found else []  # of the headers, if there are any, and of all
    if not sizes or len(rest) < sizes[-1] + 2:
        count, payload, _ = whole(data[:last])
        return count, payload, data[last:]
    begins = sizes[0] if len(sizes) == 2 else 0
    return data.count(MARK), rest[begins : sizes[-1]], rest[sizes[-1] + 2 :]


class Process:
    def __init__(self, host: str, port: int) -> None:
        self._socket = socket.create_connection((host, port))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**22)
        self._data = b""
        self._count = 0
        self._clear()

    def _clear(self) -> None:
        self._marks, self._seqs, self._bids = array("q"), array("q"), array("d")

    def run(self) -> None:
        self._socket.sendall(b'CONNECT {"verbose":false,"headers":true}\r\nSUB ticks.> 1\r\nPING\r\n')
        greeting = b""
        while b"PONG\r\n" not in greeting:
            greeting += self._socket.recv(65536)
        self._say(ready=True)
        while True:
            ready: list[Any] = select.select([self._socket.fileno(), 0], [], [])[0]
            if self._socket.fileno() in ready:
                self._hear()
            if 0 in ready and not self._obey():
                return

    def _hear(self) -> None:
        more = self._socket.recv(2**20)
        now = time.monotonic_ns()
        if not more:
            sys.exit("the NATS server has closed the subscriber's connection")
        self._data += more
        if self._data.startswith(b"PING\r\n") or b"\r\nPING\r\n" in more:
            self._socket.sendall(b"PONG\r\n")
        number, payload, self._data = whole(self._data)
        if number:
            tick = json.loads(payload)
            self._count += number
            self._marks.extend((self._count, now))
            self._seqs.append(tick["seq"])
            self._bids.append(tick["bid"])

    def _obey(self) -> bool:
        orders = os.read(0, 65536)
        for line in orders.splitlines():
            command = json.loads(line)
            if command["do"] == "marks":
                path = Path(command["path"])
                path.with_suffix(".seqs").write_bytes(self._seqs.tobytes())
                path.with_suffix(".bids").write_bytes(self._bids.tobytes())
                path.write_bytes(self._marks.tobytes())
                self._clear()
            self._say(count=self._count)
        return bool(orders)

    def _say(self, **answer: Any) -> None:
        os.write(1, json.dumps(answer).encode() + b"\n")


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        Process(sys.argv[1], int(sys.argv[2])).run()
