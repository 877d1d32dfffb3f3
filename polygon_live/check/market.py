"""Which symbols are collected, and since when ticks of them are due."""

from collections.abc import Mapping, Sequence
from typing import Final, Self

import attrs

from polygon_live.calendar import open_since
from polygon_live.habit import MUTE_SECONDS, mute_after
from polygon_live.operational import ALL_PAIRS
from polygon_live.status import State

ANY_PAIR: Final = "EURUSD"
"""Its hours are those of every pair that is no metal."""


@attrs.frozen
class Market:
    """``opened`` has each symbol with the beginning of its market's present session (Unix ms); None while closed. It
    counts as closed where nothing ticks and Polygon says closed, or can't be asked, whatever the calendar says.
    """

    opened: Mapping[str, int | None]
    expected: Mapping[str, float] = attrs.field(factory=dict)
    """Seconds within which a tick is due, of symbols of which that was learnt."""
    all_pairs: bool = False
    """Everything is collected that Polygon has: nobody knows which symbols that should be."""

    @classmethod
    def of_running(cls, state: State, symbols: Sequence[str]) -> Self:
        """As the collector itself sees it: a simulated market has hours of its own."""
        quiet = state.feed.hush == "quiet"
        told = {s.symbol: None if quiet else s.opened_ms for s in state.validator.symbols}
        expected = {s.symbol: s.expected_seconds for s in state.validator.symbols if s.usual_seconds is not None}
        if ALL_PAIRS in symbols:
            return cls(told or {ANY_PAIR: open_since(ANY_PAIR, state.at_ms)}, all_pairs=True)
        return cls({s: told[s] if s in told else open_since(s, state.at_ms) for s in symbols}, expected)

    @classmethod
    def by_calendar(cls, symbols: Sequence[str], now_ms: int) -> Self:
        """Where no collector tells."""
        if ALL_PAIRS in symbols:
            return cls({ANY_PAIR: open_since(ANY_PAIR, now_ms)}, all_pairs=True)
        return cls({s: open_since(s, now_ms) for s in symbols})

    def open_for(self, seconds: float, now_ms: int) -> tuple[str, ...]:
        """Symbols whose market has been open for at least so long."""
        return tuple(s for s, since in self.opened.items() if since is not None and now_ms - since >= seconds * 1000)

    def due_after(self, symbol: str) -> float:
        """Seconds after which the collector itself would do something for a silent symbol."""
        return mute_after(self.expected.get(symbol, MUTE_SECONDS))

    @property
    def closed(self) -> tuple[str, ...]:
        """Symbols of which no ticks are due."""
        return tuple(s for s, since in self.opened.items() if since is None)
