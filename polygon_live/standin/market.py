"""Where the stand-in's prices come from: a random walk for all symbols, or real ticks moved in time.

A market is an iterable of steps: the quotes of one frame, and how many seconds to wait before the next is asked for.
"""

import csv
import math
import random
from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Final

import attrs

from polygon_live.errors import ConfigurationError
from polygon_live.model import pair_of
from polygon_live.wire import Quote

EXCHANGE: Final = 48
Step = tuple[Sequence[Quote], float]


@attrs.frozen
class Instrument:
    """A made-up market in something real: where its price roams, how wide its spread, how fine its prices."""

    symbol: str
    price: float
    spread: float
    decimals: int


INSTRUMENTS: Final = (
    Instrument("EURUSD", 1.1213, 0.00006, 5),
    Instrument("XAUUSD", 2650.0, 0.45, 2),
    Instrument("GBPUSD", 1.2710, 0.00009, 5),
    Instrument("USDJPY", 151.20, 0.010, 3),
    Instrument("AUDUSD", 0.6520, 0.00008, 5),
    Instrument("USDCAD", 1.3980, 0.00011, 5),
    Instrument("NZDUSD", 0.5890, 0.00011, 5),
    Instrument("EURGBP", 0.8330, 0.00010, 5),
    Instrument("EURJPY", 160.10, 0.015, 3),
    Instrument("GBPJPY", 192.20, 0.024, 3),
    Instrument("AUDJPY", 98.60, 0.014, 3),
    Instrument("NZDJPY", 89.10, 0.017, 3),
    Instrument("USDCHF", 0.8840, 0.00010, 5),
    Instrument("XAGUSD", 30.80, 0.022, 3),
)

CURRENCIES: Final = {
    "USD": (1.0, 0.3),
    "EUR": (1.1213, 0.3),
    "GBP": (1.2710, 0.5),
    "JPY": (1 / 151.20, 0.4),
    "AUD": (0.6520, 0.7),
    "CAD": (1 / 1.3980, 0.6),
    "NZD": (0.5890, 1.0),
    "CHF": (1 / 0.8840, 0.7),
    "CNH": (1 / 7.2510, 1.2),
    "CZK": (1 / 24.05, 6.0),
    "DKK": (1 / 6.6520, 2.0),
    "HKD": (1 / 7.7810, 0.6),
    "HUF": (1 / 392.0, 8.0),
    "ILS": (1 / 3.6400, 10.0),
    "MXN": (1 / 20.30, 4.0),
    "NOK": (1 / 11.10, 4.0),
    "PLN": (1 / 4.0800, 5.0),
    "SEK": (1 / 10.90, 4.0),
    "SGD": (1 / 1.3450, 1.5),
    "THB": (1 / 34.50, 8.0),
    "TRY": (1 / 34.60, 12.0),
    "ZAR": (1 / 18.15, 8.0),
    "XAU": (2650.0, 1.4),
    "XAG": (30.80, 6.0),
    "XPT": (960.0, 12.0),
    "XPD": (990.0, 25.0),
}
"""What else could be asked for is made of these: US dollars for one, and its part of a spread in basis points."""
MORE: Final = ("EUR/AUD", "EUR/CHF", "GBP/AUD", "CAD/JPY", "USD/CNH", "USD/MXN", "USD/SEK", "USD/TRY", "XPT/USD")
"""What there is beside the fourteen for who asks for all pairs: the real market has far more."""
DIGITS: Final = 5
"""Of a price, after the first: 1.12130, 151.200."""
STEP_BPS: Final = 0.15
PULL: Final = 1e-4
"""How strongly a price is drawn back to where it began: without it, a demo that runs for weeks ends anywhere."""
MOST_IN_A_FRAME: Final = 3


def made_up(pair: str) -> Instrument | None:
    """A market in a pair (slash form) that is none of the fourteen; None if one of its halves is no currency here."""
    base, _, quote = pair.partition("/")
    if base == quote or base not in CURRENCIES or quote not in CURRENCIES:
        return None
    (worth, part), (other_worth, other_part) = CURRENCIES[base], CURRENCIES[quote]
    price = worth / other_worth
    return Instrument(base + quote, price, price * (part + other_part) / 10_000, DIGITS - math.floor(math.log10(price)))


_NOTHING: Final[frozenset[str]] = frozenset()
_FOURTEEN: Final = {pair_of(i.symbol): i for i in INSTRUMENTS}


def instruments(subscribed: Collection[str]) -> list[Instrument]:
    """The fourteen, and what else somebody subscribed to (slash form, or ``*``), as far as there is such a thing."""
    more = {*subscribed, *(MORE if "*" in subscribed else ())} - _FOURTEEN.keys()
    return [*INSTRUMENTS, *(found for pair in sorted(more) if (found := made_up(pair)) is not None)]


def random_walk(
    ticks_per_second: float,
    now_ms: Callable[[], int],
    rng: random.Random,
    subscribed: Callable[[], Collection[str]] = lambda: _NOTHING,
) -> Iterator[Step]:
    """A market that never closes: all fourteen symbols, so many ticks a second together, and beside them every other
    pair that is ``subscribed`` to (another object whenever that changes), each as often as one of the fourteen.
    ``now_ms`` stamps each quote, Unix milliseconds.
    """
    mids: dict[str, float] = {}
    pairs: Collection[str] | None = None
    market: list[Instrument] = []
    while True:
        if pairs is not (now := subscribed()):
            pairs, market = now, instruments(now)
        moving = rng.choices(market, k=rng.randint(1, MOST_IN_A_FRAME))
        stamp = now_ms()
        quotes = []
        for instrument in moving:
            mid = mids.get(instrument.symbol, instrument.price)
            mid *= 1 + rng.gauss(0, STEP_BPS / 10_000) - PULL * (mid / instrument.price - 1)
            mids[instrument.symbol] = mid
            half = instrument.spread * rng.uniform(0.5, 1.5) / 2
            bid, ask = round(mid - half, instrument.decimals), round(mid + half, instrument.decimals)
            quotes.append(Quote(pair_of(instrument.symbol), ask, bid, stamp, EXCHANGE))
        yield quotes, rng.expovariate(ticks_per_second * len(market) / len(INSTRUMENTS) / len(quotes))


def real_ticks(path: Path, last_ms: int) -> list[Quote]:
    """The ticks of a CSV file (``timestamp_ms,pair,bid,ask``), all moved by one constant so that the last is at
    ``last_ms`` and the distances stay. Raises ConfigurationError that names the file and the line.
    """
    quotes: list[Quote] = []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = csv.DictReader(file)
            for row in rows:
                try:
                    quotes.append(
                        Quote(row["pair"], float(row["ask"]), float(row["bid"]), int(row["timestamp_ms"]), EXCHANGE)
                    )
                except (KeyError, TypeError, ValueError) as why:
                    raise ConfigurationError(
                        f"{path}, line {rows.line_num}: {why!r}; each line must hold timestamp_ms,pair,bid,ask"
                    ) from None
    except (OSError, UnicodeDecodeError) as why:
        raise ConfigurationError(f"{path} can't be read: {why}") from None
    if not quotes:
        raise ConfigurationError(f"{path} holds no ticks")
    moved = last_ms - max(q.t for q in quotes)
    return [Quote(q.p, q.a, q.b, q.t + moved, q.x) for q in quotes]


def replay(quotes: Sequence[Quote], ticks_per_second: float, per_frame: int = 20) -> Iterator[Step]:
    """These ticks once, in order, at a steady rate."""
    rest = iter(quotes)
    while frame := list(islice(rest, per_frame)):
        yield frame, len(frame) / ticks_per_second
