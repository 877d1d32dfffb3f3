"""What a pump does with a sink that keeps a cursor, as simply as it can be done: the contract, and nothing else."""

from collections.abc import Callable

import trio

from polygon_live.errors import RowsRefused, StoreError
from polygon_live.model import Batch
from polygon_live.sink import Sink
from tests.waiting import until

MOST_TICKS = 5000


class Delivery:
    """Opens the sink, believes its cursor, and writes what follows; ``seq`` 1 to ``offered``, over and over."""

    def __init__(self, sink: Sink, ticks: Callable[[int, int], Batch]) -> None:
        """``ticks(first, count)`` can be asked for the same ticks again."""
        self.sink = sink
        self._ticks = ticks
        self.offered = 0
        self.cursor = 0
        self.errors: list[str] = []
        self.set_aside: dict[int, str] = {}
        self.ended = False

    async def reaches(self, seq: int) -> None:
        """Wait for the cursor."""
        await until(lambda: self.cursor >= seq)

    async def fails(self, says: str = "") -> None:
        """Wait for an error that comes from now on, with these words in it."""
        told = len(self.errors)
        await until(lambda: any(says in error for error in self.errors[told:]))

    async def run(self) -> None:
        """Until all is delivered that was offered, and ``ended`` is set."""
        while True:
            try:
                self.cursor = (await self.sink.open()).cursor or 0
                while not (self.ended and self.cursor >= self.offered):
                    if self.cursor < self.offered:
                        count = min(MOST_TICKS, self.offered - self.cursor)
                        await self._write(self._ticks(self.cursor + 1, count))
                    else:
                        await trio.sleep(0.005)
            except StoreError as why:
                self.errors.append(str(why))
                await trio.sleep(0.1)
            else:
                return

    async def _write(self, part: Batch) -> None:
        try:
            await self.sink.write(part)
        except RowsRefused as why:
            if len(part) > 1:
                for half in part.halves():
                    await self._write(half)
            else:
                self.set_aside[part.last] = str(why)
        self.cursor = part.last
