"""Ticks into the table, by binary COPY, and the question which of them are there."""

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Final

import psycopg
from psycopg import sql

from polygon_live.engines.postgres.columns import COLUMNS, writer_of
from polygon_live.engines.postgres.connection import Connection
from polygon_live.engines.postgres.schema import Layout, instant
from polygon_live.engines.postgres.storage import KEPT
from polygon_live.errors import AlreadyHeld, RowsRefused, StoreMisconfigured
from polygon_live.model import Tick
from polygon_live.sink import Written

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
        self._wire = [w.wire for w in self._columns]
        names = sql.SQL(", ").join(sql.Identifier(w.name) for w in self._columns)
        self._copy = sql.SQL("copy {} ({}) from stdin (format binary)").format(layout.table.quoted, names)

    def write(self, connection: Connection, ticks: Sequence[Tick], now_ms: Callable[[], int]) -> Written:
        """All of these ticks in one transaction, but for those that are older than what the table keeps.

        Raises AlreadyHeld, RowsRefused, StoreMisconfigured, psycopg.Error.
        """
        for _ in range(_TRIES):
            edge_ms = now_ms() - _KEPT_MS
            kept = [tick for tick in ticks if tick.timestamp_ms >= edge_ms]
            if not kept:
                return Written(0, expired=len(ticks))
            try:
                self._copy_in(connection, kept)
            except psycopg.errors.CheckViolation as why:
                if why.diag.constraint_name:
                    raise
                # "no partition of relation found for row" has this code too, and names no constraint. The partition
                # was not made in time, or its hour has expired just now.
                stamps = [tick.timestamp_ms for tick in kept]
                self._layout.storage.cover(connection, instant(min(stamps)), instant(max(stamps)))
                unplaced = why
            except (psycopg.errors.UniqueViolation, psycopg.errors.ExclusionViolation):
                if self.held(connection, kept):
                    message = f"some of these ticks are in {self._layout.table} already"
                    raise AlreadyHeld(message) from None
                raise
            else:
                return Written(len(kept), expired=len(ticks) - len(kept))
        message = f"{self._layout.table} has a partition for these ticks that does not take them: {unplaced}"
        raise StoreMisconfigured(message)

    def _copy_in(self, connection: Connection, ticks: Sequence[Tick]) -> None:
        # The constant columns have no end: the others end the rows.
        rows = zip(*(column.values(ticks) for column in self._columns), strict=False)
        with connection.transaction(), connection.cursor() as cursor:
            try:
                with cursor.copy(self._copy) as copy:
                    copy.set_types(self._wire)
                    write_row = copy.write_row
                    for row in rows:
                        write_row(row)
            except (OverflowError, UnicodeError) as why:
                message = f"a value can't be sent: {why}"
                raise RowsRefused(message) from None
            if cursor.rowcount != len(ticks):
                message = (
                    f"{self._layout.table} took {cursor.rowcount} of {len(ticks)} ticks and says nothing of the "
                    "others: a trigger on it keeps them out; change it, or remove it"
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
