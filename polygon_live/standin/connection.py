"""One client's conversation with the stand-in, over any Trio stream.

Built on wsproto rather than on a WebSocket server: a faithful Polygon must also be able to do what no decent server
does. Everything that goes out passes one buffer and one writer, so that order is certain and the buffer has a bound;
all the methods that send return at once.
"""

import socket
import struct
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

import msgspec
import structlog
import trio
from wsproto import ConnectionType, WSConnection
from wsproto import events as ws
from wsproto.utilities import LocalProtocolError, RemoteProtocolError

from polygon_live import wire
from polygon_live.standin.script import Script

RECEIVE_BYTES: Final = 2**16
LAST_WORDS_SECONDS: Final = 1.0
EVERYTHING: Final = "*"
_TEXT_FRAME: Final = 0x81

log = structlog.get_logger()

_request = msgspec.json.Decoder(wire.Request)


class Connection:
    """What happened on it is there to be looked at: ``requests``, ``subscribed``, ``sent``, ``goodbye``."""

    def __init__(
        self,
        stream: trio.abc.Stream,
        script: Script,
        *,
        key: str,
        changed: Callable[[], None],
        subscribing: "Callable[[Connection], None]",
    ) -> None:
        """``changed`` is called after anything happened, ``subscribing`` before the first acknowledgement."""
        self._stream = stream
        self.script = script
        self._key = key
        self._changed = changed
        self._subscribing = subscribing
        self._ws = WSConnection(ConnectionType.SERVER)
        self._out, self._outbox = trio.open_memory_channel[bytes](float("inf"))
        self._waiting = 0
        self._talk = trio.CancelScope()
        self._hushed = False
        self._reset = False
        self._message: list[str] = []
        self.opened_at = trio.current_time()
        self.requests: list[wire.Request] = []
        self.requested_at: list[float] = []
        """When each of them came."""
        self.logged_in = False
        self.subscribed: set[str] = set()
        """Pairs in slash form, or ``*``."""
        self.acknowledged: set[str] = set()
        self.sent: Counter[str] = Counter()
        """Quotes sent, by pair."""
        self.goodbye: int | None = None
        """The code of the client's own close frame."""
        self.ended_at: float | None = None

    async def run(self) -> None:
        """Until either side ends it."""
        try:
            with self._talk:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._read)
                    await self._write()
                    nursery.cancel_scope.cancel()
            if self._hushed:
                await trio.sleep_forever()
        finally:
            if self._reset and isinstance(self._stream, trio.SocketStream):
                self._stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            await trio.aclose_forcefully(self._stream)
            self.ended_at = trio.current_time()
            self._changed()

    # What the other side sees ---------------------------------------------------------------------------------------

    def send(self, message: str | bytes) -> None:
        """One frame as it is: text, or binary for bytes."""
        self._emit(ws.TextMessage(message) if isinstance(message, str) else ws.BytesMessage(message))

    def send_broken_text(self, data: bytes) -> None:
        """One frame that says text and holds these bytes (at most 125), UTF-8 or not."""
        self._put(struct.pack("BB", _TEXT_FRAME, len(data)) + data)

    def status(self, status: str, message: str = "") -> None:
        """One status event in a frame of its own."""
        self.send(wire.encode([wire.Status(status, message)]))

    def quotes(self, quotes: Sequence[wire.Quote]) -> None:
        """Those of these quotes that were subscribed to and can be heard, in one frame."""
        heard = [q for q in quotes if self._streams(q.p)]
        if not heard:
            return
        if self.script.exchange_as_text:
            heard = [msgspec.structs.replace(q, x=str(q.x)) for q in heard]
        self.send(wire.encode(heard))
        self.sent.update(q.p for q in heard)

    def close(self, code: int, reason: str = "") -> None:
        """A close frame, after what was sent so far; the client has a moment to answer it."""
        self._emit(ws.CloseConnection(code=code, reason=reason))
        self._talk.deadline = trio.current_time() + LAST_WORDS_SECONDS

    def drop(self) -> None:
        """End without a close frame, after what was sent so far."""
        self._end_soon()

    def reset(self) -> None:
        """End at once, with a TCP reset if it is TCP."""
        self._reset = True
        self._talk.cancel()

    def hush(self) -> None:
        """Half-open: nothing is read and nothing is sent any more, and nobody says so."""
        self._hushed = True
        self._talk.cancel()

    def evict(self) -> None:
        """Somebody else has the account's one connection."""
        self.status("max_connections", "Maximum number of websocket connections exceeded.")
        self.close(1008, "Maximum number of websocket connections exceeded.")

    @property
    def open(self) -> bool:
        """Not ended by either side."""
        return self.ended_at is None

    # How it works ---------------------------------------------------------------------------------------------------

    def _streams(self, pair: str) -> bool:
        deaf = self.script.mute | self.script.unacknowledged | self.script.unauthorized
        everything = EVERYTHING in self.subscribed and EVERYTHING not in deaf
        return (everything or pair in self.subscribed) and pair not in deaf

    def _emit(self, event: ws.Event) -> None:
        with suppress(LocalProtocolError):  # closed already, by either side: nobody hears it
            data = self._ws.send(event)
            if self._waiting <= self.script.buffer_bytes:
                self._put(data)
                return
            last_words = wire.encode([wire.Status("slow_consumer", "Client is too slow.")])
            self._put(self._ws.send(ws.TextMessage(last_words)))
            self._end_soon()

    def _put(self, data: bytes) -> None:
        with suppress(trio.ClosedResourceError, trio.BrokenResourceError):  # ended: nobody hears it
            self._out.send_nowait(data)
            self._waiting += len(data)

    def _end_soon(self) -> None:
        """After what is still to be sent, but no server waits for ever."""
        self._talk.deadline = trio.current_time() + LAST_WORDS_SECONDS
        self._out.close()

    async def _write(self) -> None:
        async for data in self._outbox:
            try:
                await self._stream.send_all(data)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return
            self._waiting -= len(data)

    async def _read(self) -> None:
        try:
            while data := await self._stream.receive_some(RECEIVE_BYTES):
                self._ws.receive_data(bytes(data))
                for event in self._ws.events():
                    self._take(event)
                    self._changed()
        except (trio.BrokenResourceError, RemoteProtocolError) as why:
            log.debug("a client went without a goodbye", why=repr(why))
        self._out.close()

    def _take(self, event: ws.Event) -> None:
        match event:
            case ws.Request() if self.script.http_status is not None:
                self._emit(ws.RejectConnection(status_code=self.script.http_status))
                self._out.close()
            case ws.Request():
                self._emit(ws.AcceptConnection())
                if self.script.ping_first:
                    self._emit(ws.Ping(b"before the greeting"))
                if self.script.greeting is not None:
                    self.status(self.script.greeting, "Connected Successfully")
            case ws.Ping() if self.script.pongs:
                self._emit(event.response())
            case ws.CloseConnection():
                self.goodbye = event.code
                self._emit(event.response())  # refused by wsproto if this is the answer to ours
                self._out.close()
            case ws.TextMessage():
                self._message.append(event.data)
                if event.message_finished:
                    text, self._message = "".join(self._message), []
                    self._obey(text)
            case _:
                pass

    def _obey(self, text: str) -> None:
        try:
            request = _request.decode(text)
        except msgspec.DecodeError:
            self.status("error", "invalid message")
            return
        self.requests.append(request)
        self.requested_at.append(trio.current_time())
        match request.action:
            case "auth":
                self._log_in(request.params)
            case "subscribe" | "unsubscribe" if not self.logged_in:
                self.status("auth_required", "Please authenticate first.")
            case "subscribe":
                self._subscribe(request.params)
            case "unsubscribe":
                self._unsubscribe(request.params)
            case _:
                self.status("error", f"unknown action: {request.action}")

    def _log_in(self, key: str) -> None:
        match self.script.login:
            case "ignore":
                return
            case "time_out":
                self.status("auth_timeout", "No authentication request received.")
                self.drop()
            case "no_plan":
                self.status("auth_failed", "Your plan doesn't include websocket access.")
                self.drop()
            case "accept" if key == self._key:
                self.logged_in = True
                self.status("auth_success", "authenticated")
                if not self.script.realtime:
                    self.status("error", "You don't have access real-time data.")
            case _:
                self.status("auth_failed", "authentication failed")
                self.drop()

    def _subscribe(self, topics: str) -> None:
        self._subscribing(self)
        pairs = [pair for pair in _pairs(topics) if pair not in self.subscribed]  # a plain repeat is never answered
        for _ in self.script.unauthorized.intersection(pairs):
            self.status("error", "not authorized")
        deaf = self.script.unauthorized | self.script.unacknowledged
        self.subscribed.update(pairs)
        acks = [wire.Status("success", f"subscribed to: {wire.topic(pair)}") for pair in pairs if pair not in deaf]
        match self.script.acks:
            case "none":
                return
            case "singly":
                frames = [[ack] for ack in acks]
            case "reversed":
                frames = [acks[::-1]]
            case _:
                frames = [acks]
        for frame in frames:
            if frame:
                self.send(wire.encode(frame))
        self.acknowledged.update(pair for pair in pairs if pair not in deaf)

    def _unsubscribe(self, topics: str) -> None:
        pairs = [pair for pair in _pairs(topics) if pair in self.subscribed]
        self.subscribed.difference_update(pairs)
        self.acknowledged.difference_update(pairs)
        if pairs:
            self.send(wire.encode([wire.Status("success", f"unsubscribed to: {wire.topic(pair)}") for pair in pairs]))


def _pairs(topics: str) -> list[str]:
    """The pairs of the quote topics, in slash form: hyphens are understood and never sent. Other topics are met with
    silence; an unknown ticker is acknowledged as it came, and never ticks.
    """
    pairs = [pair for kind, _, pair in (topic.strip().partition(".") for topic in topics.split(",")) if kind == "C"]
    return [pair.replace("-", "/") for pair in pairs]
