"""A wire between a client and a server, in the hands of a test."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial

import attrs
import trio


class Severed(Exception):
    """Raised by who carries: the connection ends here, on both sides."""


@attrs.frozen(eq=False)
class Ends:
    """The two sides of one connection."""

    client: trio.SocketStream
    server: trio.SocketStream


class Wire:
    """Carries any number of connections to a port of this machine. Override what is to go otherwise."""

    def __init__(self, port: int = 0) -> None:
        """``port`` may be told later: before the first connection."""
        self.port = port

    @asynccontextmanager
    async def laid(self) -> AsyncIterator[int]:
        """The port to dial instead."""
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, self._connect, listeners)
            yield listeners[0].socket.getsockname()[1]
            nursery.cancel_scope.cancel()

    async def passable(self) -> None:
        """Whoever dials waits here."""

    async def up(self, chunk: bytes, ends: Ends) -> None:
        """Hand over what the client said."""
        await ends.server.send_all(chunk)

    async def down(self, chunk: bytes, ends: Ends) -> None:
        """Hand over what the server answered."""
        await ends.client.send_all(chunk)

    async def _connect(self, client: trio.SocketStream) -> None:
        async with client:
            await self.passable()
            with suppress(OSError):  # nobody is there, and that is what the client gets to know
                server = await trio.open_tcp_stream("127.0.0.1", self.port)
                async with server, trio.open_nursery() as nursery:
                    ends = Ends(client, server)
                    nursery.start_soon(_carry, client, partial(self.up, ends=ends), nursery.cancel_scope)
                    nursery.start_soon(_carry, server, partial(self.down, ends=ends), nursery.cancel_scope)


async def _carry(
    source: trio.SocketStream, hand_over: Callable[[bytes], Awaitable[None]], both: trio.CancelScope
) -> None:
    with suppress(Severed, trio.BrokenResourceError, trio.ClosedResourceError):
        async for chunk in source:
            await hand_over(bytes(chunk))
    both.cancel()
