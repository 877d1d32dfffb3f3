"""What was accepted, in blocks: so many ticks that comparing one with what a store holds is worth a question.

- A block is a stretch of ``seq`` without a hole: where numbers jump (a restart, a dead collector's place taken over) it
  ends. So how many ticks are in it follows from its ends.
- It is closed at ``MOST_TICKS``, or when its first tick is ``MOST_MS`` old.
- Closed blocks wait until every store was compared. When too many wait, neighbours are joined; none is forgotten.
- A block knows of which time its ticks are: the young ones, and apart from them those of long ago, which were fetched.
  Else one fetched tick would have a database search days for a minute of ticks.
"""

from collections.abc import Sequence
from itertools import groupby
from typing import Final, NamedTuple, Self

import attrs

from polygon_live.model import Batch
from polygon_live.runs import Run

MOST_TICKS: Final = 10_000
MOST_MS: Final = 60_000
MOST_WAITING: Final = 4096
"""Blocks: nearly three days of minutes."""
YOUNG_MS: Final = 600_000
"""Ticks that are older than this when their block begins are of long ago."""


class Listed(NamedTuple):
    """A batch as the journal lists it: its numbers and its times, without its ticks."""

    first: int
    last: int
    ticks: int
    oldest_ms: int
    newest_ms: int
    written_ms: int


@attrs.frozen
class Block:
    """Times are Unix milliseconds, all ends included."""

    first: int
    last: int
    from_ms: int
    """When the first tick was received, and the last one."""
    to_ms: int
    young: Run | None
    """The least and the greatest of Polygon's timestamps; None: there is no such tick."""
    old: Run | None

    @property
    def count(self) -> int:
        """How many ticks."""
        return self.last - self.first + 1

    @property
    def spans(self) -> list[Run]:
        """Where its ticks lie in time: one or two stretches that don't overlap."""
        both = [span for span in (self.old, self.young) if span is not None]
        if len(both) == 2 and both[0][1] >= both[1][0]:
            return [hull(both[0], both[1])]
        return both

    @property
    def least_ms(self) -> int:
        """The oldest of Polygon's timestamps."""
        return self.spans[0][0]

    @property
    def greatest_ms(self) -> int:
        """The newest."""
        return self.spans[-1][1]

    def followed(self, other: "Block") -> Self:
        """One of both; the other's numbers follow."""
        return attrs.evolve(
            self,
            last=other.last,
            from_ms=min(self.from_ms, other.from_ms),
            to_ms=max(self.to_ms, other.to_ms),
            young=_hull(self.young, other.young),
            old=_hull(self.old, other.old),
        )


def hull(one: Run, other: Run) -> Run:
    """What both lie in."""
    return min(one[0], other[0]), max(one[1], other[1])


def _hull(one: Run | None, other: Run | None) -> Run | None:
    return hull(one, other) if one and other else one or other


class Blocks:
    """Fed with every accepted batch, in order."""

    def __init__(self) -> None:
        self.closed: list[Block] = []
        """In order. Replaced when they become fewer."""
        self._open: Block | None = None

    @property
    def begins(self) -> int | None:
        """The first number that is in a block; None: there is no block."""
        return self.closed[0].first if self.closed else self._open.first if self._open else None

    @property
    def waiting_since_ms(self) -> int | None:
        """When the first tick of the block that is not closed yet was received."""
        return self._open.from_ms if self._open else None

    def add(self, batch: Batch) -> None:
        """The next one."""
        ticks = batch.ticks
        if len(ticks) == batch.last - batch.first + 1:
            stamps = [tick.timestamp_ms for tick in ticks]
            self._add(batch.first, batch.last, ticks[0].received_ms, ticks[-1].received_ms, stamps)
            return
        for _, group in groupby(enumerate(ticks), key=lambda one: one[1].seq - one[0]):  # came back with holes
            part = [tick for _, tick in group]
            stamps = [tick.timestamp_ms for tick in part]
            self._add(part[0].seq, part[-1].seq, part[0].received_ms, part[-1].received_ms, stamps)

    def add_listed(self, row: Listed) -> None:
        """The same of what is in the journal. All numbers in it must have been given to ticks."""
        # Of ticks between the two nothing is known: if they are not all young, they count as old.
        self._add(row.first, row.last, row.written_ms, row.written_ms, (row.oldest_ms, row.newest_ms), apart=False)

    def _add(
        self, first: int, last: int, from_ms: int, to_ms: int, stamps: Sequence[int], *, apart: bool = True
    ) -> None:
        if self._open and (self._open.last != first - 1 or self.is_due(from_ms)):
            self.close()
        cut = (self._open.from_ms if self._open else from_ms) - YOUNG_MS
        span = min(stamps), max(stamps)
        if span[0] >= cut:
            young, old = span, None
        elif span[1] < cut or not apart:
            young, old = None, span
        else:
            recent = [at for at in stamps if at >= cut]
            young, old = (min(recent), span[1]), (span[0], max(at for at in stamps if at < cut))
        block = Block(first, last, from_ms, to_ms, young, old)
        self._open = self._open.followed(block) if self._open else block
        if self._open.count >= MOST_TICKS:
            self.close()

    def is_due(self, now_ms: int) -> bool:
        """Whether the open block has lasted for long enough; also if the clock was set back since."""
        return self._open is not None and not 0 <= now_ms - self._open.from_ms < MOST_MS

    def close(self) -> None:
        """The open block, if there is one."""
        if self._open:
            self.closed.append(self._open)
            self._open = None
        if len(self.closed) > MOST_WAITING:
            self.closed = joined(self.closed)

    def put_before(self, older: Sequence[Block]) -> None:
        """Blocks of earlier ticks."""
        begins = self.begins
        self.closed = [*(block for block in older if begins is None or block.last < begins), *self.closed]
        while len(self.closed) > MOST_WAITING and len(fewer := joined(self.closed)) < len(self.closed):
            self.closed = fewer

    def forget(self, seq: int) -> None:
        """Those that end at this number or before."""
        if self.closed and self.closed[0].last <= seq:
            self.closed = [block for block in self.closed if block.last > seq]


def joined(blocks: Sequence[Block]) -> list[Block]:
    """Half as many: each with its neighbour, where no number lies between them."""
    found: list[Block] = []
    alone = True
    for block in blocks:
        if not alone or not found or found[-1].last != block.first - 1:
            found.append(block)
            alone = True
        else:
            found[-1] = found[-1].followed(block)
            alone = False
    return found
