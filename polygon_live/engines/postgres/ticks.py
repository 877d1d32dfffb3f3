"""Ticks into the table, by binary COPY, and the questions which of them are there."""

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Final

import psycopg
from psycopg import sql

from polygon_live.engines.postgres.columns import COLUMNS, TICK_FIELDS, writer_of
from polygon_live.engines.postgres.connection import Connection
from polygon_live.engines.postgres.copying import copy_in
from polygon_live.engines.postgres.cursors import Cursor
from polygon_live.engines.postgres.schema import Layout, instant
from polygon_live.engines.postgres.storage import KEPT
from polygon_live.engines.postgres.upkeep import edge_of
from polygon_live.errors import StoreMisconfigured, StoreUnavailable
from polygon_live.model import Tick, encode
from polygon_live.sink import MOST_HELD, Written

HIGHEST_TIMEOUT: Final = "50s"
"""For reading three days of ticks, which is done where a table has ticks and no cursor, and not again."""
_TRIES: Final = 3
_KEPT_MS: Final = KEPT // timedelta(milliseconds=1)


class TickTable:
    """The table of ticks as one collector writes to it."""

    def __init__(self, layout: Layout, *, collector: str, tenant: str) -> None:
        self._layout = layout
        self._collector = collector
        constants = {"collector": collector, "tenant_id": tenant}
        found = [(c, layout.types[c.name]) for c in COLUMNS if c.name in layout.types]
        self._columns = [w for c, type_name in found if (w := writer_of(c, type_name, constants))]
        names = sql.SQL(", ").join(sql.Identifier(w.name) for w in self._columns)
        self._copy = sql.SQL("copy {} ({}) from stdin (format binary)").format(layout.table.quoted, names)

    def write(
        self, connection: Connection, cursor: Cursor, ticks: Sequence[Tick], now_ms: Callable[[], int]
    ) -> Written:
        """All of these ticks, but for those that are older than what the table keeps, and the cursor behind the last of
        them: in one transaction.

        Those that are there already, because the table is ahead of its cursor, are not written again.

        Raises RowsRefused, StoreContested, StoreUnavailable, StoreMisconfigured, psycopg.Error.
        """
        last = ticks[-1].seq
        held: frozenset[int] = frozenset()
        for _ in range(_TRIES):
            kept = _kept(connection, ticks, now_ms())
            missing = [tick for tick in kept if tick.seq not in held] if held else kept
            try:
                with connection.transaction():
                    cursor.move(connection, last)
                    if missing:
                        self._copy_in(connection, missing)
            except psycopg.errors.CheckViolation as why:
                if why.diag.constraint_name:
                    raise
                # "no partition of relation found for row" has this code too, and names no constraint. The partition
                # was not made in time, or its hour has expired just now.
                stamps = [tick.timestamp_ms for tick in missing]
                self._layout.storage.cover(connection, instant(min(stamps)), instant(max(stamps)))
                refusal: psycopg.Error = why
            except (psycopg.errors.UniqueViolation, psycopg.errors.ExclusionViolation) as why:
                found = self.held(connection, missing)
                if not found:
                    raise
                held |= found
                refusal = why
            else:
                cursor.seq = last
                return Written(len(kept), expired=len(ticks) - len(kept))
        message = f"{self._layout.table} does not take these ticks although it was made ready for them: {refusal}"
        raise StoreMisconfigured(message)

    def _copy_in(self, connection: Connection, ticks: Sequence[Tick]) -> None:
        taken = copy_in(connection, self._copy, self._columns, ticks)
        if taken != len(ticks):
            message = (
                f"{self._layout.table} took {taken} of {len(ticks)} ticks and says nothing of the others: a trigger on "
                "it keeps them out; change it, or remove it"
            )
            raise StoreMisconfigured(message)

    def held(self, connection: Connection, ticks: Sequence[Tick]) -> frozenset[int]:
        """The ``seq`` of those of these ticks that are in the table. Uses the unique index, one probe an instant."""
        instants = [instant(ms) for ms in {tick.timestamp_ms for tick in ticks}]
        asked = sql.SQL(
            "select seq from {} where time = any(%s::{}[]) and collector = %s and seq between %s and %s"
        ).format(self._layout.table.quoted, sql.SQL(self._layout.types["time"]))
        seqs = {tick.seq for tick in ticks}
        rows = connection.execute(asked, [instants, self._collector, min(seqs), max(seqs)])
        return frozenset(int(seq) for (seq,) in rows if seq in seqs)

    def highest(self, connection: Connection) -> int | None:
        """The highest ``seq`` of this collector. Reads the whole table, and takes its time: piece by piece, for many
        million rows are more than one statement may take. What was fetched lies in old ones under new numbers.
        """
        asked = sql.SQL("select max(seq) from {0} where collector = %s and time >= %s::{1} and time < %s::{1}").format(
            self._layout.table.quoted, sql.SQL(self._layout.types["time"])
        )
        found = []
        for piece in self._layout.storage.pieces(connection):
            span = piece.start or "-infinity", piece.end or "infinity"
            with connection.transaction():
                connection.execute("select set_config('statement_timeout', %s, true)", [HIGHEST_TIMEOUT])
                row = connection.execute(asked, [self._collector, *span]).fetchone()
            found += [int(row[0])] if row and row[0] is not None else []
        return max(found, default=None)

    def between(self, connection: Connection, after: int, last: int) -> list[bytes]:
        """The JSON of this collector's ticks with a ``seq`` above ``after`` up to ``last``, in order: as it was
        written, but for what a column of the table rounds. Reads the whole table. Raises StoreUnavailable if there are
        more than ``MOST_HELD``.
        """
        asked = sql.SQL(
            "select distinct on (seq) {} from {} where collector = %s and seq > %s and seq <= %s order by seq limit %s"
        ).format(sql.SQL(", ".join(TICK_FIELDS)), self._layout.table.quoted)
        with connection.cursor(binary=True) as cursor:  # a double's text may be cut by the database's settings
            rows = cursor.execute(asked, [self._collector, after, last, MOST_HELD + 1]).fetchall()
        if len(rows) > MOST_HELD:
            raise StoreUnavailable(f"the table holds more beyond seq {after} than can be copied back")
        return [encode(Tick(*[*row[:6], row[5], *row[6:]])) for row in rows]


def _kept(connection: Connection, ticks: Sequence[Tick], now_ms: int) -> Sequence[Tick]:
    """Without those that are older than what the table keeps: by our clock, and by the database's, which is asked only
    where one is so by ours. A clock that was set forward must not cost what waited.
    """
    edge_ms = now_ms - _KEPT_MS
    if all(tick.timestamp_ms >= edge_ms for tick in ticks):
        return ticks
    edge, _ = edge_of(connection, instant(now_ms))
    return [tick for tick in ticks if instant(tick.timestamp_ms) >= edge]
