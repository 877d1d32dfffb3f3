"""The stand-in as a server: the ways in, the account and its one connection, and the distribution of quotes."""

from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

import trio
from trio.testing import memory_stream_pair

from polygon_live import wire
from polygon_live.dial import Dial, websocket_over
from polygon_live.errors import ConfigurationError
from polygon_live.standin.connection import Connection
from polygon_live.standin.history import History
from polygon_live.standin.market import Step
from polygon_live.standin.script import Script
from polygon_live.websocket import WebSocket

PATH: Final = "/forex"
REMEMBERED: Final = 100


class StandIn:
    """A Polygon with one account. ``scripts`` is for the next connections, one each; ``script`` for all after them."""

    def __init__(self, *, key: str, script: Script | None = None, scripts: Iterable[Script] = ()) -> None:
        self._key = key
        self.script = script or Script()
        self.scripts = deque(scripts)
        self.connections: deque[Connection] = deque(maxlen=REMEMBERED)
        """The newest last."""
        self.dialled: list[tuple[float, str]] = []
        """In memory: when (trio's clock) and at which address."""
        self.unreachable: set[str] = set()
        """In memory: addresses at which nobody answers."""
        self.history = History()
        """What the market quoted: for the REST service."""
        self.pairs: frozenset[str] = frozenset()
        """What somebody is subscribed to, in slash form, or ``*``; another object when it changes."""
        self._parked = trio.lowlevel.ParkingLot()

    # The ways in ----------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def listening(self, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[str]:
        """Serve on a socket; the address to dial. Raises ConfigurationError if the port can't be had."""
        try:
            listeners = await trio.open_tcp_listeners(port, host=host)
        except OSError as why:
            raise ConfigurationError(
                f"the simulated Polygon can't listen on {host}:{port} ({why.strerror}): is another one running? "
                "stop it, or name another port"
            ) from None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(trio.serve_listeners, self._converse, listeners))
            shown = f"[{host}]" if ":" in host else host
            yield f"ws://{shown}:{listeners[0].socket.getsockname()[1]}{PATH}"
            nursery.cancel_scope.cancel()

    @asynccontextmanager
    async def in_memory(self) -> AsyncIterator[Dial]:
        """Serve without sockets, for virtual time; the way to dial."""
        async with trio.open_nursery() as nursery:
            yield partial(self._dial, nursery)
            nursery.cancel_scope.cancel()

    @asynccontextmanager
    async def _dial(self, servers: trio.Nursery, url: str) -> AsyncIterator[WebSocket]:
        self.dialled.append((trio.current_time(), url))
        self._changed()
        if url in self.unreachable:
            raise ConnectionRefusedError("nobody listens")
        near, far = memory_stream_pair()
        servers.start_soon(self._converse, far)
        async with websocket_over(near, url) as ws:
            yield ws

    async def _converse(self, stream: trio.abc.Stream) -> None:
        script = self.scripts.popleft() if self.scripts else self.script
        connection = Connection(stream, script, key=self._key, changed=self._changed, subscribing=self._evict_others)
        self.connections.append(connection)
        await connection.run()

    def _evict_others(self, newcomer: Connection) -> None:
        """One connection an account: seen live, it is the older one that has to go."""
        for other in self.connections:
            if other is not newcomer and other.open and other.logged_in:
                other.evict()

    # What goes out --------------------------------------------------------------------------------------------------

    def send(self, quotes: Sequence[wire.Quote]) -> None:
        """One frame for each client, of the pairs that it subscribed to; remembered, whoever is there."""
        self.history.add(quotes)
        for connection in self.connections:
            if connection.open:
                connection.quotes(quotes)

    async def play(self, market: Iterable[Step]) -> None:
        """Send every step of a market at its time; to nobody, if nobody is there."""
        due = trio.current_time()
        for quotes, seconds in market:
            self.send(quotes)
            due += seconds
            await trio.sleep_until(due)

    # What happened --------------------------------------------------------------------------------------------------

    @property
    def latest(self) -> Connection:
        """The newest connection."""
        return self.connections[-1]

    async def until(self, told: Callable[[], object]) -> None:
        """Wait until something that clients did makes it true."""
        while not told():
            await self._parked.park()

    async def subscribed(self, connections: int = 1, pairs: int = 1) -> Connection:
        """Wait for so many connections, the newest with at least so many subscribed pairs; that one."""
        await self.until(lambda: len(self.connections) >= connections and len(self.latest.subscribed) >= pairs)
        return self.latest

    def _changed(self) -> None:
        pairs = frozenset().union(*(c.subscribed for c in self.connections if c.open))
        if pairs != self.pairs:
            self.pairs = pairs
        self._parked.unpark_all()
