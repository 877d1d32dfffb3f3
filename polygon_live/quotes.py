"""A quote by itself: how its fields are read, and what can be wrong with them whatever came before."""

import math
from typing import Final

from polygon_live import wire
from polygon_live.model import Tick

SECONDS_BELOW: Final = 100_000_000_000
"""As milliseconds this is March 1973; as seconds, the year 5138. A market timestamp below it is in seconds."""
MICROSECONDS_FROM: Final = 100_000_000_000_000
"""As milliseconds the year 5138; as microseconds, March 1973. A market timestamp from here on is in µs or ns."""
BPS: Final = 10_000.0
NANO: Final = 1e9
"""A whole number divided by it is the float nearest to that decimal, as ``round(…, 9)`` gives it at four times the
price: that goes by way of the digits, and took a fifth of a tick's judgement.
"""
LEAST_PRICE: Final = 1e-8
MOST_PRICE: Final = 1e12
"""No pair is quoted outside; inside, sums cannot overflow and 9 decimals cannot round a mid to zero."""
EXCHANGES: Final = 1_000_000_000
"""Ids of exchanges are below: Polygon's have up to three digits, and the table's column has 32 bits."""


def mid_of(quote: wire.Quote) -> float:
    """Halfway between bid and ask, to 9 decimals."""
    return round((quote.b + quote.a) * (NANO / 2)) / NANO


def spread_of(quote: wire.Quote) -> float:
    """Ask less bid, to 9 decimals."""
    return round((quote.a - quote.b) * NANO) / NANO


def content_fault(quote: wire.Quote, max_spread_bps: float) -> tuple[str, str] | None:
    """What is wrong with its prices or the unit of its time: a reason and its sentence."""
    bid, ask, t = quote.b, quote.a, quote.t
    if not (LEAST_PRICE <= bid <= ask <= MOST_PRICE):
        return _price_fault(bid, ask)
    spread_bps = (ask - bid) / (ask + bid) * 2 * BPS
    if spread_bps > max_spread_bps:
        return "spread", f"the spread is {spread_bps:.0f} bps; at most {max_spread_bps:g} is believed"
    if not SECONDS_BELOW <= t < MICROSECONDS_FROM:
        unit = "seconds or nothing" if t < SECONDS_BELOW else "microseconds or nanoseconds"
        return "timestamp_unit", f"the timestamp {str(t)[:40]} is not in milliseconds; it looks like {unit}"
    return None


def exchange_fault(quote: wire.Quote) -> tuple[str, str] | None:
    """What is wrong with its exchange."""
    if quote.x is not None and exchange(quote.x) is None:
        # What is cut stands at the end, where the beginning of a secret is looked for.
        return "bad_field", f"not a number of at most nine digits: the exchange {str(quote.x)[:40]!r:.40}"
    return None


def _price_fault(bid: float, ask: float) -> tuple[str, str]:
    if not (math.isfinite(bid) and math.isfinite(ask)):
        return "price_not_finite", f"bid {bid} and ask {ask} are not both numbers"
    if bid < 0 or ask < 0:
        return "price_negative", f"bid {bid} or ask {ask} is negative"
    if bid == 0 or ask == 0:
        return "price_zero", f"bid {bid} or ask {ask} is zero"
    if bid > ask:
        return "crossed", f"bid {bid} is above ask {ask}"
    return "price_absurd", f"bid {bid} or ask {ask} is outside {LEAST_PRICE:g} to {MOST_PRICE:g}"


def repeats(quote: wire.Quote, last: Tick | None) -> bool:
    """Whether it is the tick before once more: the same pair, exchange, time, bid and ask."""
    return (
        last is not None
        and quote.t == last.timestamp_ms
        and quote.b == last.bid
        and quote.a == last.ask
        and (None if quote.x is None else exchange(quote.x)) == last.exchange
    )


def exchange(x: int | str) -> int | None:
    """The exchange id as an int; None if it can't be one. The specification's own example has it as a string."""
    if not isinstance(x, int):
        if not (x.isascii() and x.isdecimal() and len(x) < 10):
            return None
        x = int(x)
    return x if 0 <= x < EXCHANGES else None
