"""One row of the page's table: what the evidence says of a symbol, in one word and, if need be, a sentence."""

from collections.abc import Iterator
from typing import Final, Literal

import msgspec

from polygon_live.gap import EVERY_SYMBOL
from polygon_live.health import REFUSED_ALARM
from polygon_live.model import is_metal
from polygon_live.page.memory import Pace
from polygon_live.status import State, SymbolSnapshot
from polygon_live.watch import MUTE_SECONDS

QUIET_MS: Final = 30_000
"""No tick for so long, though the market is open: not alarming, and worth a word."""

Word = Literal["streaming", "quiet", "mute", "closed", "rejected", "backfilling"]


class Row(msgspec.Struct, frozen=True, array_like=True):
    """A symbol at one moment. On the wire it is an array, in this order."""

    state: Word
    why: str
    bid: float | None
    ask: float | None
    spread: float | None
    """In pips."""
    per_minute: int
    received_ms: int | None
    """When the last tick came, the collector's clock."""
    accepted: int
    rejected: int
    late: int
    suspect: int
    digits: int
    """Decimals of a price."""


def digits(symbol: str) -> int:
    """To how many decimals the market quotes, at least. No authority says so; it is what brokers do."""
    if is_metal(symbol):
        return 3 if symbol.startswith("XAG") else 2
    return 3 if symbol.endswith("JPY") else 5


def pip(symbol: str) -> float:
    """Ten of the last decimal: 0.0001 for most pairs, 0.01 for yen and silver, 0.1 for the other metals."""
    return float(10.0 ** (1 - digits(symbol)))


def rows(state: State, pace: Pace) -> Iterator[tuple[str, Row]]:
    """Every symbol that is collected, in the order of the configuration."""
    filled = state.filler.gap.symbol if state.filler.gap else None
    for symbol in state.validator.symbols:
        word, why = _judged(state, symbol, being_filled=filled in {symbol.symbol, EVERY_SYMBOL})
        tick = symbol.last
        yield (
            symbol.symbol,
            Row(
                state=word,
                why=why,
                bid=tick.bid if tick else None,
                ask=tick.ask if tick else None,
                spread=round(tick.spread / pip(symbol.symbol), 2) if tick else None,
                per_minute=round(pace.per_second(symbol.symbol) * 60),
                received_ms=tick.received_ms if tick else None,
                accepted=symbol.accepted,
                rejected=symbol.rejected,
                late=symbol.late,
                suspect=symbol.suspect,
                digits=digits(symbol.symbol),
            ),
        )


def _judged(state: State, symbol: SymbolSnapshot, *, being_filled: bool) -> tuple[Word, str]:
    """The worst that is true of it comes first."""
    feed = state.feed
    if symbol.opened_ms is None:
        return "closed", ""
    if symbol.refused_in_a_row >= REFUSED_ALARM:
        return "rejected", f"its last {symbol.refused_in_a_row} events were all rejected"
    if symbol.symbol in feed.silent:
        return "mute", "no tick in market hours, after resubscribing and reconnecting"
    if symbol.symbol in feed.added_silent:
        return "mute", "it was added and has not ticked: is it a pair that Polygon has?"
    if feed.state not in {"streaming", "off"}:
        return "mute", f"not connected: {feed.state}"
    since = max(symbol.last.received_ms if symbol.last else 0, symbol.opened_ms, feed.connected_since_ms or 0)
    silent_ms = state.at_ms - since
    if silent_ms > MUTE_SECONDS * 1000:
        return "mute", "no tick in market hours"
    if being_filled:
        return "backfilling", "what was not received is being fetched"
    if silent_ms > QUIET_MS or symbol.last is None:
        return "quiet", "no tick yet" if symbol.last is None else ""
    return "streaming", ""
