"""What the table has of a symbol and a range of seconds, for who looks for what it has not."""

import struct
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from decimal import ROUND_HALF_UP, Decimal
from typing import ClassVar, Final

from psycopg import sql

from polygon_live.config import Secret
from polygon_live.engines.postgres.connection import Connection, connected
from polygon_live.engines.postgres.schema import instant
from polygon_live.engines.postgres.storage import KEPT
from polygon_live.errors import StoreMisconfigured
from polygon_live.matching import Held

ASK_SECONDS: Final = 30.0
_TABLE: Final = "market_ticks"
_NUMERIC_HEADER: Final = 4
"""A numeric's ``atttypmod``: precision << 16 | scale (11 bits, signed), and this added (PostgreSQL, ``numeric.c``)."""


class TableHolder:
    """The table, asked over a connection of its own. ``cursor`` tells how far the table is, from who writes to it."""

    name: ClassVar = "the table"
    keeps_ms: ClassVar = KEPT // timedelta(milliseconds=1)
    window_ms: ClassVar = 3_600_000

    def __init__(self, dsn: Secret, collector: str, cursor: Callable[[], int | None]) -> None:
        self._dsn = dsn
        self._application = f"polygon-live/{collector}/backfill"
        self.cursor = cursor

    async def held(self, symbol: str, from_ms: int, until_ms: int) -> Held:
        """Of all collectors, and of whoever else writes there. Raises StoreError."""
        async with connected(self._dsn, self._application) as session:
            return await session.run(
                ASK_SECONDS, "count ticks", lambda connection: _held(connection, symbol, from_ms, until_ms)
            )


def _held(connection: Connection, symbol: str, from_ms: int, until_ms: int) -> Held:
    roundings = _roundings(connection)
    # An adopted table may keep whole seconds in `time`: it only says where to look.
    asked = sql.SQL(
        "select timestamp_ms::bigint / 1000, bid::float8, ask::float8, count(*) from {} "
        "where symbol = %s and time >= %s and time < %s and timestamp_ms >= %s and timestamp_ms < %s group by 1, 2, 3"
    ).format(sql.Identifier(_TABLE))
    around = [instant(from_ms - 1000), instant(until_ms + 1000)]
    rows = connection.execute(asked, [symbol, *around, from_ms, until_ms])
    counts = Counter({(second, bid, ask): count for second, bid, ask, count in rows})
    bid_stored, ask_stored = roundings["bid"], roundings["ask"]
    return Held(counts, lambda bid, ask: (bid_stored(bid), ask_stored(ask)))


def _roundings(connection: Connection) -> dict[str, Callable[[float], float]]:
    """What each of the two columns makes of a price. Its type may be below a domain."""
    asked = """
        select a.attname, b.typname, case when t.typbasetype = 0 then a.atttypmod else t.typtypmod end
        from pg_attribute a
        join pg_type t on t.oid = a.atttypid
        join pg_type b on b.oid = case when t.typbasetype = 0 then t.oid else t.typbasetype end
        where a.attrelid = to_regclass(%s) and a.attname in ('bid', 'ask')"""
    found = {name: _rounding(kind, modifier) for name, kind, modifier in connection.execute(asked, [_TABLE])}
    if len(found) < 2:
        message = f"there is no table {_TABLE} of ticks: it is made when the collector connects"
        raise StoreMisconfigured(message)
    return found


def _rounding(kind: str, modifier: int) -> Callable[[float], float]:
    if kind == "float4":
        return _safely(lambda price: float(struct.unpack("f", struct.pack("f", price))[0]))
    if kind == "numeric" and modifier >= _NUMERIC_HEADER:
        scale = ((modifier - _NUMERIC_HEADER & 0x7FF) ^ 0x400) - 0x400
        step = Decimal(1).scaleb(-scale)
        return _safely(lambda price: float(Decimal(repr(price)).quantize(step, ROUND_HALF_UP)))
    return float


def _safely(rounded: Callable[[float], float]) -> Callable[[float], float]:
    def rounding(price: float) -> float:
        try:
            return rounded(price)
        except ArithmeticError:  # too large for the column: the store has no such price
            return price

    return rounding
