"""What one store has still to get, in order, wherever that is: in memory or in the journal.

- Batches come through a channel of bounded weight. One that finds it full is left to the journal, so memory stays flat.
- Each batch names the last ``seq`` before it. Whoever stands further back (an overflow, an outage, a restart, a store
  that fell behind) is served from the journal until he meets the channel again.
- What was accepted and is in neither is a hole, and is told as one.
"""

import math
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

import attrs
import trio

from polygon_live.channels import WeightedReceiver, WeightedSender, open_weighted_channel
from polygon_live.journal import Hole, Portion
from polygon_live.model import Batch

MOST_TICKS: Final = 5000
"""A batch: large enough that the fixed cost of a write vanishes, small enough that halving finds a tick quickly."""

READ_TICKS: Final = 2000
"""A portion of the journal: 5 ms of its thread, for which what has just come may have to wait."""
MOST_REST_SECONDS: Final = 0.05
"""Who catches up rests as long as a write took, but no longer: what comes live has the right of way."""

Read = Callable[[int, int], Awaitable[Portion | None]]
"""``Journal.read``, to be awaited."""


class Backlog:
    """One store's. In the journal is, when the run begins, what follows ``beginning``, up to ``head``."""

    def __init__(self, queue_ticks: int, read: Read, *, beginning: int, head: int) -> None:
        self.queue: WeightedSender[Batch]
        self._batches: WeightedReceiver[Batch]
        self.queue, self._batches = open_weighted_channel(queue_ticks, Batch)
        self._read = read
        self.beginning = beginning
        self.head = head
        """The last ``seq`` that was accepted."""
        self._taken: deque[Batch] = deque()
        """Out of the channel, and not yet passed by the cursor."""
        self.from_journal = False
        """Whether the last portion was read back."""
        self._nearest = math.inf
        """The least that the cursor was behind at any portion that was read back, since it was not behind at all."""
        self._losing = False
        """Whether it is further behind by now."""
        self._wanted = math.inf
        """``filled`` waits until ``head`` is there."""
        self._filled = trio.Event()
        self._closed = False

    def offer(self, batch: Batch) -> None:
        """The next accepted batch. Never waits: what finds no room is left to the journal."""
        self.head = batch.last
        self.queue.offer(batch)
        if self.head >= self._wanted:
            self._filled.set()

    async def filled(self, after: int, ticks: int) -> None:
        """Wait until so many ticks or more follow this ``seq``, wherever they are, or nothing more will come."""
        self._wanted = after + ticks
        if self.head < self._wanted and not self._closed:
            self._filled = trio.Event()
            await self._filled.wait()

    async def next(self, after: int) -> Portion:
        """Wait for what follows this ``seq``. Asking again for the same is answered the same, and what has come since.

        Raises trio.EndOfChannel when nothing more will come, JournalError.
        """
        while True:
            while self._taken and self._taken[0].last <= after:
                self._taken.popleft()
            if self._taken and self._taken[0].after <= after:
                self.from_journal = False
                self._taken.extend(self._batches.receive_nowait(MOST_TICKS - sum(map(len, self._taken))))
                return self._in_memory(after)
            if self._taken:
                return await self._in_journal(after, self._taken[0].after)
            if after < self.head and not self.queue.held:
                return await self._in_journal(after, self.head)
            if after >= self.head:
                self._nearest = math.inf
            self._taken.extend(await self._batches.receive_some(MOST_TICKS))

    def _in_memory(self, after: int) -> Portion:
        joined = [self._taken[0].beyond(after)]
        size = len(joined[0])
        for batch in list(self._taken)[1:]:
            if batch.after != joined[-1].last or size + len(batch) > MOST_TICKS:
                break
            joined.append(batch)
            size += len(batch)
        batch = Batch.joined(joined)
        return Portion(batch, (), batch.last)

    async def _in_journal(self, after: int, until: int) -> Portion:
        """What the journal has behind ``after``; from ``until`` on there is more in memory, or nothing at all."""
        self.from_journal = True
        self._losing = self.head - after > self._nearest
        self._nearest = min(self._nearest, self.head - after)
        found = await self._read(after, READ_TICKS)
        if found is None:
            return Portion(None, (Hole(after + 1, until, "unjournaled"),), until)
        if found.last > until and (found.batch is None or found.batch.first > until):
            holes = tuple(attrs.evolve(h, last=min(h.last, until)) for h in found.holes if h.first <= until)
            return Portion(None, holes, until)
        return found

    async def rest(self, seconds: float) -> None:
        """Between a write that took so long and the next, if it catches up; not while it falls further behind."""
        if self.from_journal and not self._losing:
            await trio.sleep(min(seconds, MOST_REST_SECONDS))

    def waiting(self, after: int) -> int:
        """How many ticks are in memory behind this ``seq``."""
        return self.queue.held + sum(len(batch.beyond(after)) for batch in self._taken if batch.last > after)

    async def aclose(self) -> None:
        """Nothing more will be offered."""
        self._closed = True
        self._filled.set()
        await self.queue.aclose()
