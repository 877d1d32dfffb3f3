"""What the validator remembers of one symbol."""

import math

from polygon_live.habit import Habit, expected_within
from polygon_live.model import Tick
from polygon_live.status import SymbolSnapshot


class Track:
    """Of one symbol: the validator reads and writes it."""

    __slots__ = (
        "accepted",
        "candidate",
        "candidates",
        "denials",
        "habit",
        "heard",
        "late",
        "mid",
        "newest_ms",
        "refused_in_a_row",
        "rejected",
        "suspect",
        "symbol",
        "tick",
    )

    def __init__(self, symbol: str) -> None:
        self.symbol = symbol
        self.mid: float | None = None
        self.newest_ms = 0
        self.denials = 0
        self.candidate = 0.0
        self.candidates = 0
        self.tick: Tick | None = None
        self.heard = -math.inf
        self.habit = Habit()
        self.accepted = self.rejected = self.late = self.suspect = self.refused_in_a_row = 0

    def snapshot(self, opened_ms: int | None, begun_ms: int, now_ms: int) -> SymbolSnapshot:
        """As of now. Its market opened at ``opened_ms`` (None: it is closed), the trading day began at ``begun_ms``."""
        usual = self.habit.usual(now_ms, max(begun_ms, opened_ms or 0))
        return SymbolSnapshot(
            symbol=self.symbol,
            accepted=self.accepted,
            rejected=self.rejected,
            refused_in_a_row=self.refused_in_a_row,
            late=self.late,
            suspect=self.suspect,
            opened_ms=opened_ms,
            last=self.tick,
            usual_seconds=usual,
            expected_seconds=expected_within(usual),
        )
