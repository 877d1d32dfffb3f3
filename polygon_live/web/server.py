"""Hypercorn's HTTP/1.1 over sockets, with the bounds that Hypercorn's own way to sockets lacks.

What one client may have of anything is below; all of them together are the ``Crowd``. Everything here is cancelled at
once, a send to who takes nothing too, so a stop waits for nobody.
"""

import math
from contextlib import suppress
from typing import Final

import h11
import structlog
import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.trio.task_group import TaskGroup
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState, H11SendableEvent

from polygon_live.web.crowd import Crowd
from polygon_live.web.gate import METHODS, App
from polygon_live.web.share import Share, Turn

HEAD_BYTES: Final = 16 * 1024
"""Of a request: its line and its headers; one that is there at once may have ``PIECE_BYTES`` more."""
PIECE_BYTES: Final = 4096
REQUEST_SECONDS: Final = 5.0
"""That are waited for a request, from the beginning of a connection or the end of its last answer to its own end."""
ANSWER_SECONDS: Final = 30.0
"""In which the head of an answer must have been taken, and again its body, or the first part of one without an end."""
EVENT_SECONDS: Final = 5.0
"""In which each further part must have been."""
PARTING_SECONDS: Final = 1.0
"""For the client to read why, although it still sends what nobody reads."""
MOST_UNREAD: Final = 16
"""Pieces of such."""

log = structlog.get_logger()


def _configured() -> Config:
    config = Config()
    config.accesslog = config.errorlog = None
    config.include_server_header = False
    config.h11_max_incomplete_size = HEAD_BYTES
    config.max_app_queue_size = PIECE_BYTES  # all parts of a body that a piece can hold: who reads them never waits
    return config


class Server:
    """``app`` is called with a ``Client`` in the state of its scope, and gives its turn back."""

    def __init__(self, app: App, share: Share) -> None:
        self.app = ASGIWrapper(app)
        self.config = _configured()
        self.share = share
        self.crowd = Crowd()

    async def run(self, listener: trio.SocketListener) -> None:
        """Until cancelled."""
        await trio.serve_listeners(self._serve, [listener])

    async def _serve(self, stream: trio.SocketStream) -> None:
        connection = _Connection(stream, self)
        self.crowd.comes(connection.scope, _address(stream))
        try:
            await connection.run()
        except Exception:
            log.exception("a connection to the status server failed")
        finally:
            self.crowd.forget(connection.scope)
            await trio.aclose_forcefully(stream)


class _Connection:
    """One client, one request after the other; nothing is read while one is answered. It is the gate's ``Client``."""

    def __init__(self, stream: trio.SocketStream, server: Server) -> None:
        self.scope = trio.CancelScope()
        self.turn = Turn(server.share)
        self.asked = 0.0
        self._stream = stream
        self._server = server
        self._crowd = server.crowd
        self._listening = trio.CancelScope()
        self._sending = trio.Lock()
        self._left = REQUEST_SECONDS
        self._patience = ANSWER_SECONDS
        self._answered = trio.Event()
        self._answered.set()
        self._endless = False

    async def run(self) -> None:
        """Until one of the two has had enough."""
        with self.scope:
            async with TaskGroup() as tasks:
                state = ConnectionState({"client": self})
                context = WorkerContext(None)
                server = self._server
                http = _Http1(server.app, server.config, context, tasks, state, False, None, None, self._send)
                with self._listening, suppress(trio.BrokenResourceError):
                    await self._listen(http)
                await http.handle(Closed())
                await self._part()
                self.scope.cancel()

    async def _listen(self, http: H11Protocol) -> None:
        try:
            while await self._comes():
                self._crowd.asks(self.scope)
                self.asked = trio.current_time()
                # How long it waits for its turn is not the client's fault.
                await self.turn.take()
                data = await self._stream.receive_some(PIECE_BYTES)
                if not data:
                    break
                await http.handle(RawData(bytes(data)))
                if self._answered.is_set():
                    self.turn.give()
                    self._crowd.waits_for(self.scope)
                await self._answered.wait()
        finally:
            self.turn.give()

    async def _comes(self) -> bool:
        """Whether there is, in time, more of a request. Whatever is said to an answer without end: it is its end."""
        began = trio.current_time()
        with trio.move_on_after(self._left):
            await trio.lowlevel.wait_readable(self._stream.socket)
            self._left = max(0.0, self._left - (trio.current_time() - began))
            return not self._endless
        return False

    async def _send(self, event: Event) -> None:
        """What Hypercorn wants: bytes to be sent, an end, or it says that a request has come or was answered."""
        if isinstance(event, RawData):
            if event.data:
                await self._pass_on(event.data)
        elif isinstance(event, Closed) or self._endless:
            self._listening.cancel()
        elif isinstance(event, Updated) and event.idle:
            self._left = REQUEST_SECONDS
            self._crowd.waits_for(self.scope)
            self._answered.set()
        else:
            self._crowd.asks(self.scope)
            self._answered = trio.Event()

    async def _pass_on(self, data: bytes) -> None:
        """A client that does not take it in time, or is gone, loses its connection; the application hears nothing."""
        self.turn.give()  # nobody else waits for it: what is not HTTP is answered in the turn it was read in
        async with self._sending:
            self._crowd.waits_for(self.scope, len(data))
            with trio.move_on_after(self._patience), suppress(trio.BrokenResourceError):
                with suppress(trio.ClosedResourceError):  # the client was told the end before
                    await self._stream.send_all(data)
                if self._endless:
                    self._patience = EVENT_SECONDS
                return
        self.scope.cancel()

    def stays(self) -> None:
        """Its answer has no end."""
        self._endless = True
        self._left = math.inf
        self._crowd.forget(self.scope)
        self._answered.set()

    async def _part(self) -> None:
        with trio.move_on_after(PARTING_SECONDS), suppress(trio.BrokenResourceError):
            async with self._sending:
                await self._stream.send_eof()
            for _ in range(MOST_UNREAD):
                if not await self._stream.receive_some(PIECE_BYTES):
                    break


def _address(stream: trio.SocketStream) -> str:
    """Of the machine at the other end; who is gone already has none."""
    try:
        return str(stream.socket.getpeername()[0])
    except OSError:
        return ""


class _Http1(H11Protocol):
    """Without HTTP/2 and WebSocket, which Hypercorn has no switch for: who asks for a change to them gets the page."""

    async def _check_protocol(self, event: h11.Request) -> None:
        pass

    async def _create_stream(self, request: h11.Request) -> None:
        headers = [(name, value) for name, value in request.headers if name != b"upgrade"]
        # A "head" is none to h11, but to Hypercorn, which would then answer less than it said.
        method = request.method if request.method.decode() in METHODS else b"OTHER"
        plain = h11.Request(method=method, target=request.target, headers=headers, http_version=request.http_version)
        await super()._create_stream(plain)

    async def _send_h11_event(self, event: H11SendableEvent) -> None:
        # Who asks whether a body may follow is answered at once: none may.
        if not isinstance(event, h11.InformationalResponse):
            await super()._send_h11_event(event)
