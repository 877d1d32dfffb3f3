"""The REST client on a stand-in Polygon in memory, in virtual time."""

import random
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpcore
import httpx
import trio
from trio.testing import memory_stream_pair

from polygon_live.config import Secret
from polygon_live.limits import Turns
from polygon_live.rest import Rest
from polygon_live.standin import RestStandIn
from polygon_live.standin.history import History
from polygon_live.standin.http import HttpStandIn
from polygon_live.wire import Quote

KEY = "test-key-51ce"
URL = "http://rest.example"


class _Stream(httpcore.AsyncNetworkStream):
    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        try:
            with trio.fail_after(timeout if timeout is not None else float("inf")):
                return bytes(await self._stream.receive_some(max_bytes))
        except trio.TooSlowError:
            raise httpcore.ReadTimeout from None

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        await self._stream.send_all(buffer)

    async def aclose(self) -> None:
        await self._stream.aclose()


class _Backend(httpcore.AsyncNetworkBackend):
    def __init__(self, standin: HttpStandIn, servers: trio.Nursery, unreachable: set[str]) -> None:
        self._standin = standin
        self._servers = servers
        self._unreachable = unreachable

    async def connect_tcp(self, host: str, *_: Any, **__: Any) -> httpcore.AsyncNetworkStream:
        await trio.lowlevel.checkpoint()
        if host in self._unreachable:
            raise httpcore.ConnectError("nobody listens")
        near, far = memory_stream_pair()
        self._servers.start_soon(self._standin.converse, far)
        return _Stream(near)


_TLS = ssl.create_default_context()


class _Transport(httpx.AsyncHTTPTransport):
    """Opened anew for each answer, as the client closes it each time."""

    def __init__(self, backend: _Backend) -> None:
        super().__init__(verify=_TLS)
        self._pool = httpcore.AsyncConnectionPool(network_backend=backend)


class RestWorld:
    """A client, the stand-in that it asks, and what can be done to the line."""

    def __init__(self, standin: RestStandIn, servers: trio.Nursery, *, key: str, per_second: float) -> None:
        self.standin = standin
        self.unreachable: set[str] = set()
        self.began = trio.current_time()
        self.turns = Turns(per_second, wall_ms=lambda: round(trio.current_time() * 1000))
        self.rest = Rest(
            URL,
            Secret(key),
            turns=self.turns,
            rng=random.Random(7),
            transport=_Transport(_Backend(standin, servers, self.unreachable)),
        )

    @property
    def asked_at(self) -> list[float]:
        """When requests came, in seconds since the beginning."""
        return [round(asked.at - self.began, 3) for asked in self.standin.asked]

    async def all(self, symbol: str, first_s: int, last_s: int) -> list[Any]:
        """Everything that the answer holds."""
        found: list[Any] = []
        async with self.rest.quotes(symbol, first_s, last_s) as answer:
            while (block := await answer.block()) is not None:
                found += block
        return found


@asynccontextmanager
async def resting(
    quotes: Sequence[Quote] = (), *, key: str = KEY, per_second: float = 2.0, **settings: Any
) -> AsyncIterator[RestWorld]:
    """``settings`` go to the stand-in."""
    history = History()
    history.add(quotes)
    async with trio.open_nursery() as servers:
        yield RestWorld(RestStandIn(history, key=KEY, **settings), servers, key=key, per_second=per_second)
        servers.cancel_scope.cancel()
