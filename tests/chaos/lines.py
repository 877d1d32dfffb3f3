"""A line to a server that is spoilt for a while, in the way that networks spoil them."""

import socket
import struct
from contextlib import suppress
from typing import Final

import trio

from tests.wires import Ends, Severed, Wire

WAYS: Final = ("slow", "truncated", "reset", "black hole")
"""``slow``: everything comes late. ``truncated``: half a packet comes, and then the end. ``reset``: the end, by a TCP
reset. ``black hole``: nothing comes any more, and nobody says so; who was connected then stays unheard for ever."""
LATE_SECONDS: Final = 0.2
_RESET: Final = struct.pack("ii", 1, 0)


class Line(Wire):
    """Whoever dials while it is spoilt gets the same."""

    def __init__(self, port: int = 0) -> None:
        super().__init__(port)
        self.way: str | None = None
        """None: as it should be."""
        self._unheard: set[Ends] = set()

    async def up(self, chunk: bytes, ends: Ends) -> None:
        await self._carry(chunk, ends.server, ends)

    async def down(self, chunk: bytes, ends: Ends) -> None:
        await self._carry(chunk, ends.client, ends)

    async def _carry(self, chunk: bytes, to: trio.SocketStream, ends: Ends) -> None:
        if self.way == "black hole":
            self._unheard.add(ends)
        if ends in self._unheard:
            return
        match self.way:
            case "slow":
                await trio.sleep(LATE_SECONDS)
            case "truncated":
                await to.send_all(chunk[: len(chunk) // 2])
                raise Severed
            case "reset":
                for end in (ends.client, ends.server):
                    with suppress(OSError):
                        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                raise Severed
        await to.send_all(chunk)
