"""What a store lacks of a block, or has twice, and nobody has told yet."""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from polygon_live.blocks import Block
from polygon_live.compared import Difference
from polygon_live.holdings import Holding
from polygon_live.keeper import Keeper
from polygon_live.model import Tick
from polygon_live.runs import Run, runs_of, size, without

MOST_TICKS: Final = 50_000
"""That are looked up in the journal, to say which are missing."""
PORTION: Final = 1000


class Judge:
    """``now_ms`` gives Unix milliseconds."""

    def __init__(self, keeper: Keeper, collector: str, now_ms: Callable[[], int]) -> None:
        self._keeper = keeper
        self._collector = collector
        self._now_ms = now_ms

    async def judge(self, store: str, holding: Holding, block: Block) -> Difference | None:
        """None: it is there, but for what is told of elsewhere. Raises StoreError, JournalError."""
        held = await holding.look(block)
        missing = without([(block.first, block.last)], held.runs) if held.certain else []
        if missing:
            missing = without(missing, await self._told(store, block))
        ticks = await self._ticks(missing)
        if holding.keeps_ms is not None:
            missing = _kept(missing, ticks, block, self._now_ms() - holding.keeps_ms)
        if not missing and not held.doubled:
            return None
        lacking = [ticks[seq] for first, last in missing for seq in range(first, last + 1) if seq in ticks]
        times = [tick.timestamp_ms for tick in lacking] or [block.least_ms, block.greatest_ms]
        return Difference(
            store=store,
            first=block.first,
            last=block.last,
            accepted=block.count,
            missing=size(missing),
            doubled=held.doubled,
            from_ms=min(times),
            to_ms=max(times) + 1,
            symbols=tuple(sorted({tick.symbol for tick in lacking})),
            found_ms=self._now_ms(),
            seen_ms=self._now_ms(),
        ).in_words(self._collector)

    async def _told(self, store: str, block: Block) -> list[Run]:
        """What the ledger says that it lacks, or refused, of these numbers."""
        entries = self._keeper.entries
        gaps, aside = await self._keeper.ask(
            lambda journal: (
                journal.ledger.gaps(store=store),
                journal.ledger.set_aside_between(store, block.first, block.last),
            )
        )
        gaps += [gap for gap in entries.unwritten if gap.store == store]
        aside += [one.seq for one in entries.unkept if one.sink == store]
        known = [(g.first_seq, g.last_seq) for g in gaps if g.first_seq is not None and g.last_seq is not None]
        return [run for run in (*known, *runs_of(aside)) if run[1] >= block.first and run[0] <= block.last]

    async def _ticks(self, missing: Sequence[Run]) -> Mapping[int, Tick]:
        """Those of these numbers that the journal still has."""
        found: dict[int, Tick] = {}
        left, position = deque(missing), 0
        while left and len(found) < MOST_TICKS:
            portion = await self._keeper.read(max(position, left[0][0] - 1), PORTION)
            if portion is None:
                break
            position = portion.last
            for tick in portion.batch.ticks if portion.batch else ():
                while left and left[0][1] < tick.seq:
                    left.popleft()
                if left and left[0][0] <= tick.seq:
                    found[tick.seq] = tick
            while left and left[0][1] <= position:
                left.popleft()
        return found


def _kept(missing: Sequence[Run], ticks: Mapping[int, Tick], block: Block, edge_ms: int) -> list[Run]:
    """Without what is older than the edge; nor what is not known any more, if its block reaches back so far."""
    left = without(missing, runs_of(seq for seq, tick in ticks.items() if tick.timestamp_ms < edge_ms))
    return left if block.least_ms >= edge_ms else [run for run in left if run[0] in ticks]
