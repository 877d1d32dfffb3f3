"""States made by hand that live: ticks come in every second, and what the test says has happened."""

import random
from collections.abc import Sequence
from itertools import product
from typing import Final

import attrs
import trio

from polygon_live.gap import Gap
from polygon_live.journal import Aside
from polygon_live.model import FOURTEEN_SYMBOLS, Tick
from polygon_live.page.symbols import digits
from polygon_live.status import State, SymbolSnapshot
from tests.test_status import NOW, STARTED, WELL

THOUSAND: Final = tuple(f"{a}{b}{c}USD" for a, b, c in product("ABCDEFGHIJ", repeat=3))


class Entries:
    """A ledger with these."""

    def __init__(self, *gaps: Gap) -> None:
        self._gaps = gaps

    async def gaps(self, _most: int) -> Sequence[Gap]:
        await trio.lowlevel.checkpoint()
        return self._gaps

    async def quarantine(self, _most: int) -> Sequence[Aside]:
        await trio.lowlevel.checkpoint()
        return []


class Lively:
    """``read()`` is the next second of it."""

    def __init__(self, symbols: tuple[str, ...] = FOURTEEN_SYMBOLS, share: float = 0.4) -> None:
        self._rng = random.Random(7)
        self._share = share
        self._seconds = 0
        self._accepted = dict.fromkeys(symbols, 0)
        self._mids = {symbol: 150.0 if digits(symbol) == 3 else 1.1 for symbol in symbols}
        self._ticks: dict[str, Tick] = {}
        self.closed: set[str] = set()
        self.still: set[str] = set()
        """Symbols that do not tick."""
        self.base = WELL

    def read(self) -> State:
        self._seconds += 1
        at_ms = NOW + self._seconds * 1000
        for symbol, mid in self._mids.items():
            if self._rng.random() < self._share and symbol not in self.still | self.closed:
                self._tick(symbol, mid * (1 + self._rng.gauss(0, 1e-5)), at_ms - self._rng.randint(10, 900))
        symbols = tuple(
            SymbolSnapshot(s, n, 0, 0, 0, 0, None if s in self.closed else STARTED, self._ticks.get(s))
            for s, n in self._accepted.items()
        )
        accepted = sum(self._accepted.values())
        return attrs.evolve(
            self.base,
            at_ms=at_ms,
            validator=attrs.evolve(
                self.base.validator, accepted=accepted, last_accepted_ms=at_ms - 100, symbols=symbols
            ),
            sinks=tuple(attrs.evolve(sink, delivered=sink.delivered + accepted) for sink in self.base.sinks),
        )

    def _tick(self, symbol: str, mid: float, at_ms: int) -> None:
        n = digits(symbol)
        bid, ask = round(mid - 0.4 * 10.0**-n * 10, n), round(mid + 0.4 * 10.0**-n * 10, n)
        self._mids[symbol] = mid
        self._accepted[symbol] += 1
        seq = self._accepted[symbol]
        self._ticks[symbol] = Tick(
            symbol,
            bid,
            ask,
            round(mid, 9),
            round(ask - bid, 9),
            at_ms,
            at_ms,
            48,
            "polygon_websocket",
            "quote",
            seq,
            at_ms,
        )
