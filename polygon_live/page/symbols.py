"""One row of the page's table: what the evidence says of a symbol, in one word and, if need be, a sentence."""

from collections.abc import Iterator
from typing import Literal

import msgspec

from polygon_live.gap import EVERY_SYMBOL
from polygon_live.health import REFUSED_ALARM, silence
from polygon_live.model import is_metal
from polygon_live.operational import ALL_PAIRS
from polygon_live.page.memory import Pace
from polygon_live.status import FeedSnapshot, State, SymbolSnapshot

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
    if mute := _mute(feed, symbol.symbol):
        return "mute", mute
    if being_filled:
        return "backfilling", "what was not received is being fetched"
    if feed.hush != "none":
        return "quiet", "nothing comes of any symbol" + (": a holiday?" if feed.hush == "quiet" else "")
    return _by_itself(state, symbol)


def _mute(feed: FeedSnapshot, symbol: str) -> str:
    """Why nothing helped; nothing, if that is not so."""
    if symbol in feed.silent:
        return "no tick in market hours, after resubscribing and reconnecting"
    if symbol in feed.added_silent:
        return "it was added and has not ticked: is it a pair that Polygon has?"
    if feed.state not in {"streaming", "off"} and feed.hush != "quiet":
        return f"not connected: {feed.state}"
    return "nothing comes of any symbol, and Polygon says that the market is open" if feed.hush == "alarm" else ""


def _by_itself(state: State, symbol: SymbolSnapshot) -> tuple[Word, str]:
    """While others tick, as the feed judges it."""
    stage = state.feed.stages.get(symbol.symbol)
    if stage == "reconnected":
        return "mute", f"{silence(symbol, state.at_ms)}; the connection was made anew"
    if stage is not None:
        return "quiet", silence(symbol, state.at_ms) + ("; subscribed anew" if stage == "resubscribed" else "")
    if symbol.last is None:
        return "quiet", "no tick yet"
    silent_ms = state.at_ms - symbol.last.received_ms
    if ALL_PAIRS in state.feed.acknowledged and silent_ms > symbol.expected_seconds * 1000:
        return "quiet", silence(symbol, state.at_ms)  # of all pairs none is watched by itself
    return "streaming", ""
