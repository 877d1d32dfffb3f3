"""A Polygon that sends as fast as a socket takes it: a process of its own, and the handle to it.

It speaks the login conversation and then writes frames that are ready but for the time in them, which is the moment of
the write. Used so::

    with Sender() as sender:              # the process; `sender.url` is where the collector dials, whatever its key is
        ...                               # start who shall read
        sender.subscribed(14)             # wait until so many topics, or `C.*`, are asked for
        sender.send(100_000, per_second=5_000, per_frame=20)   # returns at once; per_second None: as fast as it goes
        sender.wait()                     # until all that was asked for is written
        marks = sender.marks(folder)      # what was written when, since the last time
        sender.close()                    # in order, with code 1000, and wait until the reader has gone

Ticks come in one fixed order, `ticks.encoded(symbols)` round and round: the n-th tick that was sent is the n-th that a
subscriber gets, if none is missing. It sends to who connected last.
"""

import base64
import contextlib
import hashlib
import json
import os
import select
import socket
import struct
import subprocess
import sys
import time
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Self

import attrs

from tests.bench.ticks import MOMENT, encoded
from tests.bench.ticks import symbols as names

ROOT: Final = Path(__file__).parents[2]
CHUNK_TICKS: Final = 1000
"""In one write, where there is no rate."""
_MAGIC: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_TEXT, _CLOSE, _PING, _PONG = 1, 8, 9, 10


class Child:
    """A helper process that obeys lines of JSON on its standard input, one after the other, and answers each by one."""

    def __init__(self, module: str, *arguments: object) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *map(str, arguments)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self.pid = self._process.pid
        self._unanswered = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                assert pipe is not None
                pipe.close()
        self._process.wait()

    def order(self, **command: Any) -> None:
        """Does not wait for the answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command).encode() + b"\n")
        self._process.stdin.flush()
        self._unanswered += 1

    def answer(self) -> dict[str, Any]:
        """The next one. What the process has to say about its end is on standard error."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self._process.args!r} ended with exit code {self._process.wait()}")
        self._unanswered -= 1
        return dict(json.loads(line))

    def ask(self, **command: Any) -> dict[str, Any]:
        """Its answer, after those to what was ordered before."""
        self.order(**command)
        return self.wait()

    def wait(self) -> dict[str, Any]:
        """Until everything is answered; the last answer."""
        last: dict[str, Any] = {}
        while self._unanswered:
            last = self.answer()
        return last


@attrs.frozen
class Marks:
    """Moments at which so many were over: ``counts`` rise, ``nanoseconds`` are CLOCK_MONOTONIC."""

    counts: Sequence[int]
    nanoseconds: Sequence[int]

    @classmethod
    def read(cls, path: Path) -> "Marks":
        numbers = array("q", path.read_bytes())
        path.unlink()
        return cls(numbers[0::2], numbers[1::2])


class Sender(Child):
    """The handle. Everything but ``send`` blocks: call it from a thread where a loop runs."""

    def __init__(self, symbols: int = 14) -> None:
        super().__init__("tests.bench.sender", symbols)
        self.symbols = names(symbols)
        self.ticks = encoded(symbols)
        self.sent = 0
        """That were ordered, and are written after ``wait``."""
        self._unanswered += 1
        self.url = str(self.answer()["url"])

    def subscribed(self, topics: int) -> None:
        """Wait until so many are asked for on the newest connection."""
        self.ask(do="subscribed", topics=topics)

    def send(self, ticks: int, *, per_second: float | None, per_frame: int = 20) -> None:
        """A multiple of ``per_frame`` of them, evenly spaced, or with no space at all. Returns at once."""
        if ticks % per_frame or len(self.ticks) % per_frame:
            raise ValueError(f"{ticks} ticks, or a round of {len(self.ticks)}, are no whole frames of {per_frame}")
        self.sent += ticks
        self.order(do="send", ticks=ticks, per_second=per_second, per_frame=per_frame)

    def marks(self, folder: Path) -> Marks:
        """Each write's first moment, and how many ticks were sent after it."""
        path = folder / f"sent-{time.monotonic_ns()}"
        self.ask(do="marks", path=str(path))
        return Marks.read(path)

    def close(self) -> None:
        """End the conversation in order, and wait until whoever reads has read everything and gone."""
        self.ask(do="close")


# The process --------------------------------------------------------------------------------------------------------


def frame(payload: bytes, opcode: int = _TEXT) -> bytes:
    """One unmasked frame, as a server sends it."""
    size = len(payload)
    if size < 126:
        return struct.pack(">BB", 0x80 | opcode, size) + payload
    if size < 65536:
        return struct.pack(">BBH", 0x80 | opcode, 126, size) + payload
    return struct.pack(">BBQ", 0x80 | opcode, 127, size) + payload


def status(*said: tuple[str, str]) -> bytes:
    return frame(json.dumps([{"ev": "status", "status": s, "message": m} for s, m in said]).encode())


class Client:
    """Who reads. Whole frames of a client are short: none is split here."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.topics: set[str] = set()
        self._data = b""
        self._upgraded = False

    def heard(self) -> bool:
        """Take in what has come and answer it; False when it is over."""
        more = self.socket.recv(65536)
        self._data += more
        if not self._upgraded:
            if b"\r\n\r\n" not in self._data:
                return bool(more)
            head, _, self._data = self._data.partition(b"\r\n\r\n")
            self._upgrade(head)
        for opcode, payload in self._frames():
            if opcode == _CLOSE:
                self.socket.sendall(frame(payload, _CLOSE))
                return False
            if opcode == _PING:
                self.socket.sendall(frame(payload, _PONG))
            elif opcode == _TEXT:
                self._obey(json.loads(payload))
        return bool(more)

    def _upgrade(self, head: bytes) -> None:
        fields = dict(line.split(b":", 1) for line in head.split(b"\r\n")[1:])
        key = next(v.strip() for k, v in fields.items() if k.lower() == b"sec-websocket-key")
        accept = base64.b64encode(hashlib.sha1(key + _MAGIC).digest())
        self.socket.sendall(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n" + status(("connected", "Connected Successfully"))
        )
        self._upgraded = True

    def _frames(self) -> Iterator[tuple[int, bytes]]:
        while len(self._data) >= 6:
            begins, size = 6, self._data[1] & 127
            if size == 126:
                begins, size = 8, struct.unpack(">H", self._data[2:4])[0]
            if len(self._data) < begins + size:
                return
            mask = self._data[begins - 4 : begins]
            payload = bytes(b ^ mask[n % 4] for n, b in enumerate(self._data[begins : begins + size]))
            opcode, self._data = self._data[0] & 15, self._data[begins + size :]
            yield opcode, payload

    def _obey(self, request: dict[str, str]) -> None:
        if request["action"] == "auth":
            self.socket.sendall(status(("auth_success", "authenticated")))
            return
        topics = [topic.strip() for topic in request["params"].split(",")]
        self.socket.sendall(status(*[("success", f"{request['action']}d to: {topic}") for topic in topics]))
        if request["action"] == "subscribe":
            self.topics.update(topics)
        else:
            self.topics.difference_update(topics)


class Process:
    """One loop: whatever is due is written, and between the writes it is heard who has something to say."""

    def __init__(self, symbols: int) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._client: Client | None = None
        self._ticks = encoded(symbols)
        self._frames: dict[tuple[int, int], list[bytes]] = {}
        self._sent = 0
        self._marks = array("q")
        self._orders = b""

    def run(self) -> None:
        self._say(url=f"ws://127.0.0.1:{self._listener.getsockname()[1]}/forex")
        while True:
            while b"\n" not in self._orders:
                self._hear(None)
            line, _, self._orders = self._orders.partition(b"\n")
            command = json.loads(line)
            match command.pop("do"):
                case "subscribed":
                    while len(self._topics()) < command["topics"]:
                        self._hear(None)
                    self._say(topics=len(self._topics()))
                case "send":
                    self._send(**command)
                    self._say(sent=self._sent)
                case "close":
                    self._close()
                    self._say(sent=self._sent)
                case "marks":
                    Path(command["path"]).write_bytes(self._marks.tobytes())
                    self._marks = array("q")
                    self._say(sent=self._sent)

    def _topics(self) -> set[str]:
        return self._client.topics if self._client else set()

    def _hear(self, seconds: float | None) -> None:
        """Wait so long at most for anybody to say something."""
        readers: list[Any] = [self._listener, 0, *([self._client.socket] if self._client else [])]
        for ready in select.select(readers, [], [], seconds)[0]:
            if ready is self._listener:
                connection, _ = self._listener.accept()
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._client = Client(connection)
            elif ready == 0:
                orders = os.read(0, 65536)
                if not orders:
                    sys.exit()
                self._orders += orders
            elif self._client is not None and not self._client.heard():
                self._client.socket.close()
                self._client = None

    def _send(self, ticks: int, per_second: float | None, per_frame: int) -> None:
        goal, start, begun = self._sent + ticks, self._sent, time.monotonic()
        while self._sent < goal:
            due = goal
            if per_second is not None:
                passed = time.monotonic() - begun
                due = min(goal, start + (int(passed * per_second) // per_frame + 1) * per_frame)
            if due > self._sent:
                self._hear(0)
                self._write(min(due - self._sent, max(1, CHUNK_TICKS // per_frame) * per_frame), per_frame)
            elif per_second is not None:
                self._hear(max(0.0, begun + (self._sent - start) / per_second - time.monotonic()))

    def _close(self) -> None:
        if self._client is not None:
            with contextlib.suppress(OSError):
                self._client.socket.sendall(frame(struct.pack(">H", 1000), _CLOSE))
        while self._client is not None:
            self._hear(None)

    def _write(self, ticks: int, per_frame: int) -> None:
        while self._client is None:
            self._hear(None)
        shift = self._sent % per_frame
        frames = self._ready(per_frame, shift)
        first = (self._sent - shift) // per_frame % len(frames)
        last = first + ticks // per_frame
        chunk = b"".join(frames[first:last])
        if last > len(frames):
            chunk += b"".join(frames[: last - len(frames)])
        wall, now = time.time_ns(), time.monotonic_ns()
        self._sent += ticks
        self._marks.extend((self._sent, now))
        with contextlib.suppress(OSError):  # whoever read is gone; who comes next gets what follows
            self._client.socket.sendall(chunk.replace(MOMENT, b"%d" % (wall // 1_000_000)))

    def _ready(self, per_frame: int, shift: int) -> list[bytes]:
        """One round in frames of this size, from the tick of this number on."""
        if (per_frame, shift) not in self._frames:
            ticks = [*self._ticks[shift:], *self._ticks[:shift]]
            made = [b"[" + b",".join(ticks[n : n + per_frame]) + b"]" for n in range(0, len(ticks), per_frame)]
            self._frames[per_frame, shift] = [frame(each) for each in made]
        return self._frames[per_frame, shift]

    def _say(self, **answer: Any) -> None:
        os.write(1, json.dumps(answer).encode() + b"\n")


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        Process(int(sys.argv[1])).run()
