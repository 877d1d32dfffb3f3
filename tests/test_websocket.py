"""What comes the short way, what is left to trio-websocket, and that nothing is lost, doubled or out of order."""

import random
import struct
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock, memory_stream_pair
from trio_websocket import ConnectionClosed
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, CloseConnection, Event, Ping, TextMessage

from polygon_live.dial import websocket_over
from polygon_live.websocket import MAX_MESSAGE, Tap, WebSocket

HEAD = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"
PING = b"\x89\x02hi"
PONG = b"\x8a\x00"
GOODBYE = b"\x88\x02\x03\xe8"


def frame(payload: bytes, kind: int = 0x81) -> bytes:
    size = len(payload)
    if size < 126:
        return struct.pack("!BB", kind, size) + payload
    if size < 2**16:
        return struct.pack("!BBH", kind, 126, size) + payload
    return struct.pack("!BBQ", kind, 127, size) + payload


class Scripted(trio.abc.Stream):
    """Gives these chunks, one at a time."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await trio.lowlevel.checkpoint()
        return next(self._chunks, b"")

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        raise NotImplementedError

    async def wait_send_all_might_not_block(self) -> None:
        raise NotImplementedError

    async def aclose(self) -> None:
        raise NotImplementedError


async def through(*chunks: bytes) -> tuple[list[str | bytes], bytes]:
    """What a tap takes out of this, and what it leaves."""
    tap, left = Tap(Scripted(iter(chunks))), b""
    while data := await tap.receive_some():
        left += data
    assert tap.ended
    return list(tap.messages), left


def cut(data: bytes, draw: random.Random) -> Sequence[bytes]:
    places = sorted(draw.sample(range(1, len(data)), draw.randint(1, 40)))
    return [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]


@pytest.mark.parametrize("seed", range(20))
async def test_however_it_is_cut_text_is_taken_out_and_the_rest_left_as_it_came(seed: int) -> None:
    draw = random.Random(seed)
    texts = ["ü" * (size // 2) + "x" * (size % 2) for size in (0, 1, 125, 126, 3000, 2**16 - 1, 2**16)]
    frames = [frame(text.encode()) for text in texts] + [PING, PONG]
    data = HEAD + b"".join(draw.sample(frames, len(frames)))
    taken, left = await through(*cut(data, draw))
    assert sorted(taken) == sorted(texts)
    assert left in (HEAD + PING + PONG, HEAD + PONG + PING)


@pytest.mark.parametrize(
    "odd",
    [
        frame(b"binary", 0x82),
        frame(b"the first of two", 0x01) + frame(b"the second", 0x80),
        frame(b"compressed?", 0xC1),
        frame(b"\xff\xfe"),
        GOODBYE,
        frame(b"x" * 126, 0x89),
        struct.pack("!BBQ", 0x81, 127, MAX_MESSAGE + 1),
        struct.pack("!BBH", 0x81, 126, 125) + b"x" * 125,
        struct.pack("!BBQ", 0x81, 127, 2**16 - 1) + b"x" * 2**16,
        b"\x81\x85abcdhello",
    ],
)
async def test_from_the_first_unusual_frame_on_everything_is_left(odd: bytes) -> None:
    behind = frame(b"behind it")
    taken, left = await through(HEAD + frame(b"before it") + odd + behind, behind)
    assert taken == ["before it"]
    assert left == HEAD + odd + behind + behind


async def test_a_refusal_of_the_handshake_is_left_whole() -> None:
    refusal = b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 4\r\n\r\n\x81\x02no"
    assert await through(refusal[:7], refusal[7:]) == ([], refusal)


@asynccontextmanager
async def conversation() -> AsyncIterator[tuple[WebSocket, "Server"]]:
    """An open WebSocket and who is at its other end."""
    near, far = memory_stream_pair()
    async with trio.open_nursery() as nursery:
        server = Server(far)
        nursery.start_soon(server.accept)
        async with websocket_over(near, "ws://h.example/forex") as ws:
            yield ws, server
        nursery.cancel_scope.cancel()


class Server:
    """Says what it is told to, in one piece."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._ws = WSConnection(ConnectionType.SERVER)

    async def accept(self) -> None:
        await self.hear()
        await self.say(AcceptConnection(), TextMessage("greeting"))

    async def hear(self) -> list[Event]:
        self._ws.receive_data(bytes(await self._stream.receive_some()))
        return list(self._ws.events())

    async def say(self, *events: Event) -> None:
        await self._stream.send_all(b"".join(self._ws.send(event) for event in events))

    async def cut(self) -> None:
        await self._stream.aclose()


async def read_to_the_end(ws: WebSocket, told: list[str | bytes]) -> None:
    while True:
        told += await ws.get_messages()


async def test_what_comes_together_is_had_together(autojump_clock: MockClock) -> None:
    async with conversation() as (ws, server):
        assert await ws.get_message() == "greeting"
        await server.say(TextMessage("one"), TextMessage("two"), Ping(b"?"), TextMessage("three"))
        assert await ws.get_messages() == ["one", "two", "three"]
        assert type((await server.hear())[0]).__name__ == "Pong"


async def test_the_order_holds_when_the_short_way_ends(autojump_clock: MockClock) -> None:
    async with conversation() as (ws, server):
        first, second = TextMessage("in two ", message_finished=False), TextMessage("parts")
        await server.say(TextMessage("one"), first, second, TextMessage("three"))
        await server.say(TextMessage("four"), CloseConnection(1001, "bye"))
        told: list[str | bytes] = []
        with pytest.raises(ConnectionClosed) as raised:
            await read_to_the_end(ws, told)
        assert told == ["greeting", "one", "in two parts", "three", "four"]
        assert raised.value.reason is not None
        assert (raised.value.reason.code, raised.value.reason.reason) == (1001, "bye")


async def test_what_came_before_a_cut_is_had_before_its_error(autojump_clock: MockClock) -> None:
    async with conversation() as (ws, server):
        assert await ws.get_message() == "greeting"
        await server.say(TextMessage("the last"))
        await server.cut()
        assert await ws.get_message() == "the last"
        for _ in range(2):
            with pytest.raises(ConnectionClosed):
                await ws.get_messages()


async def test_who_waits_hears_of_the_end(autojump_clock: MockClock) -> None:
    async with conversation() as (ws, server), trio.open_nursery() as nursery:
        assert await ws.get_message() == "greeting"
        nursery.start_soon(server.cut)
        with pytest.raises(ConnectionClosed):
            await ws.get_messages()


async def test_what_is_shown_at_once_is_waited_for_only_if_that_is_wanted(autojump_clock: MockClock) -> None:
    shown: list[str | bytes] = []

    def show(messages: Sequence[str | bytes]) -> Sequence[str | bytes]:
        shown.extend(messages)
        return [message for message in messages if "?" in str(message)]

    async with conversation() as (ws, server):
        await server.say(TextMessage("before"))
        await trio.testing.wait_all_tasks_blocked()
        with ws.shown_to(show):
            assert shown == ["greeting", "before"]
            await server.say(TextMessage("one"), TextMessage("two?"), TextMessage("three"))
            assert await ws.get_messages() == ["two?"]
            assert shown[2:] == ["one", "two?", "three"]
            await server.say(TextMessage("in ", message_finished=False), TextMessage("parts"), TextMessage("four?"))
            assert await ws.get_messages() == []  # the library's: it was shown, and nobody need wait for it
            assert await ws.get_messages() == ["four?"]
            assert shown[5:] == ["in parts", "four?"]
        await server.say(TextMessage("afterwards"))
        assert await ws.get_messages() == ["afterwards"]
        assert shown[-1] == "four?"


async def test_what_comes_after_it_was_shown_is_kept_for_who_waits(autojump_clock: MockClock) -> None:
    async with conversation() as (ws, server):
        with ws.shown_to(lambda _: ()):
            await server.say(TextMessage("nobody's"))
            await trio.testing.wait_all_tasks_blocked()
        await server.say(TextMessage("somebody's"))
        assert await ws.get_messages() == ["somebody's"]


async def test_frames_that_come_close_upon_each_other_are_read_together_and_a_single_one_at_once(
    autojump_clock: MockClock,
) -> None:
    us, them = memory_stream_pair()
    tap, arrived = Tap(us), []

    async def note() -> None:
        while True:
            await tap.came.park()
            arrived.append((trio.current_time(), len(tap.messages)))
            tap.messages.clear()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(note)
        await them.send_all(HEAD)
        assert await tap.receive_some() == HEAD
        nursery.start_soon(tap.receive_some)
        for _ in range(100):
            await them.send_all(frame(b"tick"))
            await trio.sleep(0.0002)
        await trio.sleep(1)
        assert sum(count for _, count in arrived) == 100
        assert len(arrived) < 30
        arrived.clear()
        sent = [trio.current_time() + n for n in range(3)]
        for moment in sent:
            await trio.sleep_until(moment)
            await them.send_all(frame(b"tick"))
        await trio.sleep(1)
        assert arrived == [(moment, 1) for moment in sent]
        nursery.cancel_scope.cancel()
