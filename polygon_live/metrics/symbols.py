"""Of each symbol, as long as there are not too many: all of Polygon's pairs would be thousands of series a metric."""

from collections.abc import Callable, Iterator
from typing import Final

from polygon_live.metrics.family import Family, Row, counters, gauge, gauges, seconds
from polygon_live.status import State, SymbolSnapshot

MOST_SYMBOLS: Final = 100
"""The others have no series here; ``/symbols`` has all of them."""

_LABELS: Final = ("symbol",)


def _each(value: Callable[[SymbolSnapshot], float | None]) -> Callable[[State], Iterator[Row]]:
    """The first ones in the order of the configuration, or, of all pairs, in the order in which they first ticked: one
    that has its series keeps it while it is collected.
    """

    def rows(state: State) -> Iterator[Row]:
        for symbol in state.validator.symbols[:MOST_SYMBOLS]:
            yield (symbol.symbol,), value(symbol)

    return rows


SYMBOLS: Final[tuple[Family, ...]] = (
    counters("symbol_ticks_accepted", "Live ticks accepted.", _LABELS, _each(lambda s: s.accepted)),
    counters("symbol_ticks_rejected", "Events refused.", _LABELS, _each(lambda s: s.rejected)),
    counters(
        "symbol_ticks_late", "Accepted ticks older than the newest of their symbol.", _LABELS, _each(lambda s: s.late)
    ),
    counters("symbol_ticks_suspect", "Accepted ticks with an unusual jump.", _LABELS, _each(lambda s: s.suspect)),
    gauges(
        "symbol_last_tick_timestamp_seconds",
        "Polygon's time of the last tick; absent before the first.",
        _LABELS,
        _each(lambda s: seconds(s.last.timestamp_ms) if s.last else None),
    ),
    gauge(
        "symbols_without_series",
        f"Collected symbols beyond the first {MOST_SYMBOLS}, of which the metrics above have none.",
        lambda s: max(0, len(s.validator.symbols) - MOST_SYMBOLS),
    ),
)
