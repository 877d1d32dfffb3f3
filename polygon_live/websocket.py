"""A WebSocket whose ordinary messages take a shorter way than trio-websocket's.

That library spends 15 µs on a frame: 7 in wsproto, which is general, and the rest in a memory channel that the reading
task hands it over through, one at a time. At one event a frame this would be more than all the rest of a tick's way
together. So what the library reads passes through a ``Tap`` first. It takes out whole text frames and hands them on,
all that came together at once. The library gets everything else as it came: the handshake, pings, the goodbye, and what
is against the rules. With the first frame that is none of the usual (in fragments, binary, too long, not UTF-8) the
short way ends for this connection, and everything from that frame on is the library's.
"""

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final, TypeAlias

import trio
from trio_websocket import WebSocketConnection

Show: TypeAlias = Callable[[Sequence[str | bytes]], Sequence[str | bytes]]
"""Looks at messages, and says which of them are to be waited for."""

MAX_MESSAGE: Final = 16 * 2**20
"""Bytes."""
REST_SECONDS: Final = 0.0015
"""After a read, where reads follow close upon each other. All that is done behind a read costs 1 ms of CPU, be it of
one frame or of ten; and 5,000 frames a second come 0.2 ms apart.
"""
NEAR_SECONDS: Final = 2 * REST_SECONDS
IN_A_ROW: Final = 10
"""So many reads close upon each other, and it is no conversation."""
MUCH: Final = 2**13
"""Bytes in one read: it is worth its price."""
_HEAD_END: Final = b"\r\n\r\n"
_SWITCHING: Final = b"HTTP/1.1 101"
_TEXT: Final = 0x81
_USUAL: Final = frozenset({_TEXT, 0x89, 0x8A})
"""The first byte of a whole text frame, a ping, a pong."""
_LENGTH_BYTES: Final = {126: 2, 127: 8}
_LEAST_LENGTH: Final = {0: 0, 2: 126, 8: 2**16}
_MOST_LENGTH: Final = {0: 125, 2: 2**16 - 1, 8: MAX_MESSAGE}
"""Of a payload whose length takes so many bytes more: another, or a mask, would be against the rules."""


class Tap(trio.abc.Stream):
    """The stream as trio-websocket sees it."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._buffer = bytearray()
        """The part of a frame that has come; before the first one, of the answer to the handshake."""
        self._in_head = True
        self.messages: deque[str | bytes] = deque()
        self.show: Show = lambda messages: messages
        self.came = trio.lowlevel.ParkingLot()
        """Whoever waits for messages, or for the end."""
        self._read_at = -math.inf
        self._in_a_row = 0
        self.ended = False
        """No more messages will come this way."""

    def end(self) -> None:
        """What comes from now on is not taken out."""
        self.ended = True
        self.came.unpark_all()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """What is left for the library; nothing at the end."""
        try:
            while data := await self._stream.receive_some(max_bytes):
                if self.ended:
                    return data
                self._buffer += data
                if left := self._left():
                    return left
                await self._rest(len(data))
        except BaseException:
            self.end()
            raise
        self.end()
        return b""

    async def _rest(self, size: int) -> None:
        """Where little comes often, let more come together."""
        last, self._read_at = self._read_at, trio.current_time()
        self._in_a_row = self._in_a_row + 1 if self._read_at - last < NEAR_SECONDS else 0
        if size < MUCH and self._in_a_row >= IN_A_ROW:
            await trio.sleep(REST_SECONDS)

    def _left(self) -> bytes:
        if not self._in_head:
            return self._left_of_frames()
        begins = self._buffer.find(_HEAD_END) + len(_HEAD_END)
        if begins < len(_HEAD_END):
            return b""
        if not self._buffer.startswith(_SWITCHING):
            return self._all_the_rest(0)
        self._in_head = False
        head = bytes(self._buffer[:begins])
        del self._buffer[:begins]
        return head + self._left_of_frames()

    def _left_of_frames(self) -> bytes:
        buffer, left = self._buffer, b""
        messages: list[str | bytes] = []
        begins, end = 0, len(buffer)
        while end - begins >= 2:
            kind, length = buffer[begins], buffer[begins + 1]
            more = _LENGTH_BYTES.get(length, 0)
            payload = begins + 2 + more
            if payload > end:
                break
            if more:
                length = int.from_bytes(buffer[begins + 2 : payload])
            usual = kind in _USUAL and _LEAST_LENGTH[more] <= length <= _MOST_LENGTH[more]
            usual = usual and (kind == _TEXT or not more)  # a longer ping is against the rules
            ends = payload + length
            if usual and ends > end:
                break
            if usual and kind == _TEXT:
                try:
                    messages.append(buffer[payload:ends].decode())
                except UnicodeDecodeError:
                    usual = False
            if not usual:
                self.take(messages)
                return left + self._all_the_rest(begins)
            if kind != _TEXT:
                left += buffer[begins:ends]
            begins = ends
        del buffer[:begins]
        self.take(messages)
        return left

    def take(self, messages: Sequence[str | bytes]) -> None:
        """They have come."""
        if messages and (waited_for := self.show(messages)):
            self.messages += waited_for
            self.came.unpark_all()

    def _all_the_rest(self, begins: int) -> bytes:
        rest = bytes(self._buffer[begins:])
        self._buffer.clear()
        self.end()
        return rest

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """As the stream does."""
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        """As the stream does."""
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        """As the stream does."""
        self.end()
        await self._stream.aclose()


class WebSocket:
    """An open connection. Whatever is done on one that has ended raises ``trio_websocket.ConnectionClosed``."""

    def __init__(self, library: WebSocketConnection, tap: Tap) -> None:
        self._library = library
        self._tap = tap

    async def get_message(self) -> str | bytes:
        """The next one; after the last, ConnectionClosed."""
        await self._wait()
        return self._tap.messages.popleft() if self._tap.messages else await self._library.get_message()

    async def get_messages(self) -> Sequence[str | bytes]:
        """The next one and all that are there with it; after the last, ConnectionClosed."""
        await self._wait()
        if not self._tap.messages:
            return self._tap.show([await self._library.get_message()])
        messages = list(self._tap.messages)
        self._tap.messages.clear()
        return messages

    @contextmanager
    def shown_to(self, show: Show) -> Iterator[None]:
        """In the block, what comes is shown at once, by the task that reads, and ``get_messages`` gives what is to be
        waited for. To wake another task for each frame costs more than to decode it, where frames are small.
        """
        tap, before = self._tap, self._tap.show
        tap.show = show
        waiting, tap.messages = tap.messages, deque()
        tap.take(list(waiting))
        try:
            yield
        finally:
            tap.show = before

    async def _wait(self) -> None:
        while not self._tap.messages and not self._tap.ended:
            await self._tap.came.park()

    async def send_message(self, message: str) -> None:
        """Return when the system has taken it."""
        await self._library.send_message(message)

    async def ping(self) -> None:
        """Return with the answer."""
        await self._library.ping()

    async def aclose(self) -> None:
        """Say goodbye, and wait for the other side to do so."""
        await self._library.aclose()
