"""How much of a core a task may use over time: it saves up while it needs less, and waits while it has used more."""

from collections import deque
from collections.abc import Sequence
from typing import Final

from polygon_live.blocks import Block

REMEMBERED: Final = 100
"""Blocks by which it is told how many are looked at."""


class Budget:
    """In seconds of the processor. ``share`` of a core, saved up for at most ``saved_seconds`` of the clock."""

    def __init__(self, share: float, *, saved_seconds: float, now: float) -> None:
        self.most = share * saved_seconds
        self.spent = 0.0
        self._share = share
        self._began = self._at = now
        self._left = self.most

    def left(self, now: float) -> float:
        """Below zero: more was used than was there."""
        self._left = min(self.most, self._left + (now - self._at) * self._share)
        self._at = now
        return self._left

    def spend(self, seconds: float) -> None:
        """It was used."""
        self.spent += seconds
        self._left -= seconds

    def used_share(self, now: float) -> float:
        """Of a core, since the beginning."""
        return self.spent / max(now - self._began, 1.0)


class Sampling:
    """Which blocks can be afforded where each costs by the tick, and what to say of it."""

    def __init__(self, tick_seconds: float) -> None:
        self.tick_seconds = tick_seconds
        """What one tick costs, as seen lately."""
        self._recent: deque[tuple[Block, bool]] = deque(maxlen=REMEMBERED)

    def affordable(self, ready: Sequence[Block], budget: Budget, now: float) -> Sequence[Block]:
        """All of these; or none yet, for what is lacking is saved up; or, where it can't be, the latest of them."""
        left = budget.left(now)
        need = self._cost(ready)
        if need <= left:
            return ready
        if need <= budget.most or left <= 0:
            return ()
        first = len(ready) - 1
        while first and self._cost(ready[first - 1 :]) <= left:
            first -= 1
        return ready[first:]

    def done(self, blocks: Sequence[Block], *, looked: bool) -> None:
        """These were looked at, or were not."""
        self._recent.extend((block, looked) for block in blocks)

    def measured(self, seconds: float, ticks: int) -> None:
        """What it cost to look at blocks of so many ticks."""
        if ticks:
            self.tick_seconds += (seconds / ticks - self.tick_seconds) * min(0.5, ticks / 20_000)

    @property
    def one_in(self) -> float:
        """1: every block is looked at. 4: one in four."""
        looked = sum(looked for _, looked in self._recent)
        return len(self._recent) / max(looked, 1) if self._recent else 1.0

    @property
    def whole_share(self) -> float:
        """What looking at every block would take of a core, at the rate of the latest."""
        if len(self._recent) < 2:
            return 0.0
        seconds = (self._recent[-1][0].to_ms - self._recent[0][0].from_ms) / 1000
        return self._cost([block for block, _ in self._recent]) / max(seconds, 1.0)

    def _cost(self, blocks: Sequence[Block]) -> float:
        return sum(block.count for block in blocks) * self.tick_seconds
