"""Ticks that wait to be read, in somebody else's program: bounded, because nobody upstream may wait for that."""

from collections import deque
from collections.abc import Sequence
from typing import Final, Literal, Self

import structlog
import trio

from polygon_live.errors import StreamOverflow
from polygon_live.model import Tick

Overflow = Literal["drop_oldest", "fail"]
"""What becomes of a tick that finds no room: the oldest one makes room for it, or the stream ends with an error."""

SPARE: Final = 2
"""The part of the room, as a divisor, that must be free before a loss is another storm."""

log = structlog.get_logger()


class TickBuffer:
    """An asynchronous iterator over what is put in. Of several readers, each tick goes to one."""

    def __init__(self, most: int, overflow: Overflow) -> None:
        """Raises ValueError: there must be room for one tick, and the behaviour must be a known one."""
        if most < 1:
            raise ValueError(f"room for {most} ticks is none: it must be at least 1")
        if overflow not in {"drop_oldest", "fail"}:
            raise ValueError(f"overflow is {overflow!r}: it must be 'drop_oldest' or 'fail'")
        self._most = most
        self._overflow = overflow
        self._ticks: deque[Tick] = deque(maxlen=most)
        self._readers = trio.lowlevel.ParkingLot()
        self._losing = self._failed = self._closed = False
        self.dropped = 0
        """How many ticks made room for younger ones unread."""

    def put(self, ticks: Sequence[Tick]) -> bool:
        """Never waits. False: they do not fit, those that do were the last, and whoever reads is told after them."""
        if self._failed:
            return False
        free = self._most - len(self._ticks)
        lost = len(ticks) - free
        if lost > 0 and self._overflow == "fail":
            self._failed = True
            ticks = ticks[:free]
        elif lost > 0:
            if not self._losing:
                log.error("ticks are read too slowly: the oldest are dropped", room=self._most, dropped=self.dropped)
            self._losing = True
            self.dropped += lost
        self._ticks.extend(ticks)
        self._readers.unpark_all()
        return not self._failed

    def close(self) -> None:
        """Nothing more will come."""
        self._closed = True
        self._readers.unpark_all()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Tick:
        """The next one. Raises StreamOverflow behind the last tick that fitted."""
        await trio.lowlevel.checkpoint()  # each time: a reader that never waits must not keep the feed from reading
        while not self._ticks:
            if self._failed:
                raise StreamOverflow(f"{self._most} ticks waited to be read, and there was no room for the next")
            if self._closed:
                raise StopAsyncIteration
            await self._readers.park()
        tick = self._ticks.popleft()
        if len(self._ticks) <= self._most // SPARE:
            self._losing = False
        return tick
