"""The ticks that the benchmarks send: the movements of a real day, or of one that looks like it, for any number of
symbols, encoded ahead of time but for their moment.
"""

import random
from collections.abc import Sequence
from functools import cache
from itertools import product
from pathlib import Path
from typing import Final

from polygon_live.model import FOURTEEN_SYMBOLS, pair_of
from polygon_live.standin.market import EXCHANGE, INSTRUMENTS, real_ticks

REAL: Final = Path(__file__).parents[3] / "shared" / "data" / "eurusd-2020-01-01.csv"
MOMENT: Final = b"@@@@@@@@@@@@@"
"""Stands for thirteen digits of Unix milliseconds."""
LEAST: Final = 19_600
"""Of one round through all ticks: so many never pass in one millisecond, and an exact repeat would be refused."""


def symbols(count: int) -> tuple[str, ...]:
    """The fourteen, then made-up ones."""
    made = (f"{a}{b}{c}USD" for a, b, c in product("QZWK", "ABCDEFGHIJKLMNOPQRST", "ABCDEFGHIJKLMNOPQRST"))
    return (*FOURTEEN_SYMBOLS, *(name for name, _ in zip(made, range(count - 14), strict=False)))[:count]


@cache
def movements() -> Sequence[tuple[float, float]]:
    """Bid and spread of a day, as parts of its first bid."""
    if REAL.exists():
        quotes = [(quote.b, quote.a - quote.b) for quote in real_ticks(REAL, 0)]
    else:
        draw, bid, quotes = random.Random(1), 1.1213, []
        for _ in range(9500):
            bid += draw.gauss(0, 1.5e-5) * (draw.random() > 0.015)
            quotes.append((bid, 1e-5 * max(1.0, draw.gauss(4, 2))))
    return [(bid / quotes[0][0], spread / quotes[0][0]) for bid, spread in quotes]


@cache
def encoded(count: int) -> Sequence[bytes]:
    """One round: all symbols in turn, each with a price other than its last. Its length divides by 20."""
    known = {each.symbol: (each.price, each.decimals) for each in INSTRUMENTS}
    each = -(-LEAST // count // 20) * 20
    columns = []
    for n, symbol in enumerate(symbols(count)):
        price, decimals = known.get(symbol, (1.0 + n / 1000, 5))
        columns.append(_column(pair_of(symbol), price, decimals, each, start=n * 331))
    return [tick for row in zip(*columns, strict=True) for tick in row]


def _column(pair: str, price: float, decimals: int, length: int, start: int) -> list[bytes]:
    """There and back: no jump where the round begins again."""
    moves, least = movements(), 10.0**-decimals
    there = [moves[(start + n) % len(moves)] for n in range(length // 2)]
    prices = []
    for part, spread in [*there, *there[::-1]]:
        bid = round(part * price, decimals)
        prices.append((bid, round(bid + max(least, spread * price), decimals)))
    for n in range(length):
        while prices[n] in {prices[n - 1], prices[(n + 1) % length]}:
            prices[n] = (prices[n][0], round(prices[n][1] + least, decimals))
    return [
        f'{{"ev":"C","p":"{pair}","x":{EXCHANGE},"a":{ask},"b":{bid},"t":'.encode() + MOMENT + b"}"
        for bid, ask in prices
    ]
