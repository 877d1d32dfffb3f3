"""What each store holds of a block, asked in the store's own way."""

from collections import deque
from collections.abc import Callable, Sequence
from typing import ClassVar, Final, Protocol

import attrs

from polygon_live.blocks import Block
from polygon_live.budget import Sampling
from polygon_live.engines.kafka import ArchiveNumbers, Place
from polygon_live.engines.postgres import TableNumbers
from polygon_live.runs import Answered, Run, runs_of, united

TICK_SECONDS: Final = 20e-6
"""What reading a record costs, until that was measured here."""
MOST_PLACES: Final = 512
"""That the archive's end is remembered of: when it can't be read for an hour, older blocks are looked for by time."""


@attrs.frozen
class Held:
    """Of one block."""

    runs: Sequence[Run]
    """Its numbers that are there."""
    doubled: int
    """So many more than there should be."""
    certain: bool = True
    """What is not among them is not there; else it may have been deleted since, in order."""


class Holding(Protocol):
    """One store's."""

    @property
    def keeps_ms(self) -> int | None:
        """Younger ticks than this are there; None: all are."""

    @property
    def sampling(self) -> Sampling | None:
        """None: every block is asked for."""

    async def equal(self, blocks: Sequence[Block]) -> Sequence[bool | None]:
        """Whether each block is there, all of it and once; None: that can't be told. Raises StoreError."""

    async def look(self, block: Block) -> Held:
        """The same one by one. Raises StoreError."""

    def forget(self) -> None:
        """The store is not what it was: it has fallen behind."""


class InTable:
    """Counted in the database."""

    sampling = None

    def __init__(self, numbers: TableNumbers) -> None:
        self._numbers = numbers
        self.keeps_ms = numbers.keeps_ms

    async def equal(self, blocks: Sequence[Block]) -> Sequence[bool | None]:
        """Raises StoreError."""
        counts = await self._numbers.count(blocks)
        return [c.rows == c.there == block.count for c, block in zip(counts, blocks, strict=True)]

    async def look(self, block: Block) -> Held:
        """Raises StoreError."""
        counted, runs = await self._numbers.runs(block)
        return Held(runs, counted.rows - counted.there)

    def forget(self) -> None:
        """There is nothing."""


class InArchive:
    """Read back. ``spent`` tells how many seconds of the processor that has cost so far."""

    keeps_ms: ClassVar = None

    def __init__(self, numbers: ArchiveNumbers, spent: Callable[[], float]) -> None:
        self._numbers = numbers
        self._spent = spent
        self.sampling = Sampling(TICK_SECONDS)
        self._places: deque[tuple[int, Place]] = deque(maxlen=MOST_PLACES)
        """A ``seq``, and where the archive ended when no later one had been accepted."""

    async def mark(self, last_accepted: Callable[[], int]) -> None:
        """Remember where it ends. Raises StoreUnavailable, StoreMisconfigured."""
        place = await self._numbers.place()
        self._places.append((last_accepted(), place))

    async def equal(self, blocks: Sequence[Block]) -> Sequence[bool | None]:
        """Raises StoreUnavailable, StoreMisconfigured."""
        before = self._spent()
        found = await self._numbers.numbers(blocks, self._before(blocks[0]))
        self.sampling.measured(self._spent() - before, sum(block.count for block in blocks))
        return [
            None if not n.certain and n.there < block.count else n.there == block.count and not n.doubled
            for n, block in zip(found, blocks, strict=True)
        ]

    async def look(self, block: Block) -> Held:
        """Everything from its time on: the place may be wrong. Raises StoreUnavailable, StoreMisconfigured."""
        (found,) = await self._numbers.numbers([block], self._before(block) if block.old else None)
        runs = runs_of(block.first + n for n, times in enumerate(found.times) if times)
        return Held(runs, found.doubled, certain=found.certain)

    def _before(self, block: Block) -> Place | None:
        return next((place for seq, place in reversed(self._places) if seq < block.first), None)

    def forget(self) -> None:
        """Its records may stand elsewhere now."""
        self._places.clear()


class Acknowledged:
    """NATS can't be asked: this is what it has answered for. Up to ``since`` an earlier run had its answer."""

    keeps_ms: ClassVar = None
    sampling = None

    def __init__(self, answered: Answered, since: int) -> None:
        self._answered = answered
        self._since = since

    async def equal(self, blocks: Sequence[Block]) -> Sequence[bool | None]:
        """Raises nothing."""
        return [self._runs(block) == [(block.first, block.last)] for block in blocks]

    async def look(self, block: Block) -> Held:
        """Raises nothing."""
        return Held(self._runs(block), 0)

    def _runs(self, block: Block) -> Sequence[Run]:
        before = [(block.first, min(block.last, self._since))] if block.first <= self._since else []
        return united([*before, *self._answered.between(block.first, block.last)])

    def forget(self) -> None:
        """It keeps no cursor that could go back."""
