"""What the stand-in's market quoted, whether anybody was there to hear it or not: what its REST service has."""

from collections import deque
from collections.abc import Sequence
from typing import Final, Literal

import msgspec

from polygon_live.wire import Quote

REMEMBERED: Final = 200_000
"""Quotes, of all pairs together: some 30 MiB, an hour at 50 a second."""
Rounding = Literal["floor", "nearest"]


class PastQuote(msgspec.Struct, frozen=True, gc=False):
    """A quote as the REST service writes it."""

    ask_exchange: int
    ask_price: float
    bid_exchange: int
    bid_price: float
    participant_timestamp: int
    """Nanoseconds; every sample of Polygon's is on a whole second."""


class History:
    """The latest quotes in the order in which they were made. ``rounding`` is how a time becomes a whole second."""

    def __init__(self, most: int = REMEMBERED, rounding: Rounding = "floor") -> None:
        self._quotes: deque[Quote] = deque(maxlen=most)
        self._half = 500 if rounding == "nearest" else 0

    def add(self, quotes: Sequence[Quote]) -> None:
        """These were made."""
        self._quotes.extend(quotes)

    def of(self, pair: str, from_ns: int, until_ns: int) -> list[PastQuote]:
        """Those of a pair (slash form) from one time to before another, in ascending order."""
        found = [
            PastQuote(_number(q.x), q.a, _number(q.x), q.b, at)
            for q in self._quotes
            if q.p == pair and from_ns <= (at := (q.t + self._half) // 1000 * 1_000_000_000) < until_ns
        ]
        return sorted(found, key=lambda quote: quote.participant_timestamp)


def _number(exchange: int | str | None) -> int:
    return int(exchange or 0)
