"""Which of the quotes that Polygon's REST service has are missing in a store: a multiset, for there is no key.

The service knows quotes by the second, the stream by the millisecond, and neither numbers them. So of each (second,
bid, ask) as many are missing as the service has more than the store. What that costs where the two disagree is measured
by ``tests/test_matching.py``.
"""

from collections import Counter
from collections.abc import Callable
from typing import Protocol

import attrs

from polygon_live import wire

Key = tuple[int, float, float]
"""Unix second, bid, ask."""


@attrs.frozen
class Held:
    """What a store has of one symbol and range of seconds."""

    counts: Counter[Key]
    as_stored: Callable[[float, float], tuple[float, float]] = lambda bid, ask: (bid, ask)
    """What the store makes of bid and ask: a column may round. ``counts`` has what was made."""


class Holder(Protocol):
    """A store that can be asked what it has."""

    @property
    def name(self) -> str:
        """In a sentence: the table, the archive."""

    @property
    def keeps_ms(self) -> int | None:
        """How far back it goes; None: without an end."""

    @property
    def window_ms(self) -> int:
        """How much time to ask for at once."""

    @property
    def cursor(self) -> Callable[[], int | None]:
        """The last ``seq`` of this collector that it holds; None while that is not known."""

    async def held(self, symbol: str, from_ms: int, until_ms: int) -> Held:
        """Of the seconds from one to before another, both whole. Raises StoreError."""


class Missing:
    """Takes from what a store has, quote by quote, and says what is left over. Order does not matter."""

    def __init__(self, held: Held) -> None:
        self._left = held.counts.copy()
        self._as_stored = held.as_stored

    def lacks(self, quote: wire.Quote) -> bool:
        """Whether the store has not got this quote, of this range, or not as often as it was asked for."""
        key = (quote.t // 1000, *self._as_stored(quote.b, quote.a))
        if self._left[key] <= 0:
            return True
        self._left[key] -= 1
        return False
